package runtime

// trtllm reads Triton with the TensorRT-LLM backend, whose metrics have their own port, and trtllm-serve where Triton's
// names are absent. A Triton that serves several models or versions has a series for each. trtllm-serve answers JSON at
// /metrics and the Prometheus page at /prometheus/metrics, on the port that serves requests.
func trtllm() *Server {
	return &Server{
		Name:        "trt-llm",
		Paths:       []string{"/metrics", "/prometheus/metrics"},
		metricsPort: 8002,
		Families: []string{
			"nv_trt_llm_request_metrics",
			"nv_trt_llm_kv_cache_block_metrics",
			"trtllm_num_requests_waiting",
			"trtllm_num_requests_running",
			"trtllm_kv_cache_utilization",
			"trtllm_kv_cache_tokens_per_block",
			"trtllm_kv_cache_max_blocks",
			"process_start_time_seconds",
		},
		read: readTRTLLM,
	}
}

func readTRTLLM(s *sheet) Reading {
	if s.of("nv_trt_llm_request_metrics") != nil {
		return readTriton(s)
	}
	r := Reading{
		Waiting:   s.requests(every, "trtllm_num_requests_waiting", "nv_trt_llm_request_metrics"),
		Running:   s.requests(every, "trtllm_num_requests_running"),
		KVUsage:   s.needed("trtllm_kv_cache_utilization").share(),
		BlockSize: int(s.needed("trtllm_kv_cache_tokens_per_block").largest()),
	}
	r.KVTokens = tokens(float64(r.BlockSize), float64(s.needed("trtllm_kv_cache_max_blocks").total()))
	return r
}

func readTriton(s *sheet) Reading {
	requests, blocks := s.of("nv_trt_llm_request_metrics"), s.needed("nv_trt_llm_kv_cache_block_metrics")
	scheduled := requests.where("request_type", "scheduled")
	r := Reading{
		Waiting: s.requests(tritonWaiting, "nv_trt_llm_request_metrics"),
		Running: scheduled.total(),
		KVUsage: tritonUsage(blocks),
	}
	for _, size := range kind(blocks, "tokens_per") {
		r.BlockSize = int(size.value)
		of := kind(blocks, "max").where("model", size.label("model")).where("version", size.label("version"))
		r.KVTokens += tokens(size.value, float64(of.total()))
	}
	return r
}

// tritonWaiting gives the requests that wait. Older backends don't say; there, what is active and not scheduled waits.
func tritonWaiting(requests series) series {
	if waiting := requests.where("request_type", "waiting"); waiting != nil {
		return waiting
	}
	active, scheduled := requests.where("request_type", "active"), requests.where("request_type", "scheduled")
	if active == nil || scheduled == nil {
		return nil
	}
	return series{{value: float64(max(0, active.total()-scheduled.total()))}}
}

func tritonUsage(blocks series) float64 {
	if said := kind(blocks, "fraction"); said != nil {
		return said.share()
	}
	if most := kind(blocks, "max").total(); most > 0 {
		return min(1, float64(kind(blocks, "used").total())/float64(most))
	}
	return 0
}

func kind(blocks series, name string) series { return blocks.where("kv_cache_block_type", name) }
