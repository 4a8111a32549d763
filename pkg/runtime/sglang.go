package runtime

// sglang reads SGLang (started with --enable-metrics). Its schedulers each have series, labelled by rank: those that
// differ by dp_rank hold different requests; those that differ only by tp_rank or pp_rank tell of the same ones. With
// priority scheduling priority="" is the sum of the others. 0.5.9 tells the size of the cache in labels, 0.5.16 in
// metrics of their own.
func sglang() *Server {
	return &Server{
		Name:  "sglang",
		Paths: []string{"/metrics"},
		Families: []string{
			"sglang:num_queue_reqs",
			"sglang:num_running_reqs",
			"sglang:token_usage",
			"sglang:page_size",
			"sglang:num_pages",
			"sglang:cache_config_info",
			"process_start_time_seconds",
		},
		read: readSGLang,
	}
}

func readSGLang(s *sheet) Reading {
	r := Reading{
		Waiting: s.requests(schedulers, "sglang:num_queue_reqs"),
		Running: s.requests(schedulers, "sglang:num_running_reqs"),
		KVUsage: schedulers(s.needed("sglang:token_usage")).share(),
	}
	if pages := schedulers(s.of("sglang:num_pages")); pages != nil {
		r.BlockSize = int(s.needed("sglang:page_size").largest())
		r.KVTokens = tokens(float64(r.BlockSize), float64(pages.total()))
		return r
	}
	for _, x := range schedulers(s.needed("sglang:num_pages", "sglang:cache_config_info")) {
		r.BlockSize = x.whole("page_size")
		r.KVTokens += tokens(float64(r.BlockSize), float64(x.whole("num_pages")))
	}
	return r
}

// schedulers keeps one sample for each data-parallel rank: the largest.
func schedulers(all series) series {
	var kept series
	for _, x := range all.where("priority", "") {
		kept = keepLargest(kept, x)
	}
	return kept
}

func keepLargest(kept series, x sample) series {
	for i := range kept {
		if kept[i].label("dp_rank") == x.label("dp_rank") && kept[i].label("model_name") == x.label("model_name") {
			if x.value > kept[i].value {
				kept[i] = x
			}
			return kept
		}
	}
	return append(kept, x)
}
