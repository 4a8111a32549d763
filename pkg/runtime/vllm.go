package runtime

import (
	"slices"
	"strings"
)

// vllm reads vLLM v1, and v0 where its names differ: the cache's usage was called gpu_cache_usage_perc before 0.10.
// With data parallelism every engine has its own series, labelled engine="0", "1" and so on.
func vllm() *Server {
	return &Server{
		Name:  "vllm",
		Paths: []string{"/metrics"},
		Families: []string{
			"vllm:num_requests_waiting",
			"vllm:num_requests_running",
			"vllm:kv_cache_usage_perc",
			"vllm:gpu_cache_usage_perc",
			"vllm:cache_config_info",
			"vllm:lora_requests_info",
			"vllm:engine_sleep_state",
			"process_start_time_seconds",
		},
		read: readVLLM,
	}
}

func readVLLM(s *sheet) Reading {
	r := Reading{
		Waiting: s.requests(every, "vllm:num_requests_waiting"),
		Running: s.requests(every, "vllm:num_requests_running"),
		KVUsage: s.needed("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc").share(),
		Asleep:  vllmAsleep(s.optional("vllm:engine_sleep_state")),
	}
	for _, engine := range s.needed("vllm:cache_config_info") {
		if r.BlockSize == 0 {
			r.BlockSize = engine.whole("block_size")
		}
		r.KVTokens += vllmTokens(engine)
	}
	if lora := s.optional("vllm:lora_requests_info"); lora != nil {
		// Each state that ever was is a series of its own; its value is the time at which it was last true.
		now := lora.newest()
		r.MaxAdapters = now.whole("max_lora")
		r.Adapters = names(now.label("running_lora_adapters"), now.label("waiting_lora_adapters"))
	}
	return r
}

// vllmTokens is the capacity of one engine's cache. vLLM says it itself since the blocks of hybrid models aren't all
// alike; older ones say only how many blocks there are.
func vllmTokens(engine sample) int {
	if said := engine.whole("kv_cache_size_tokens"); said > 0 {
		return said
	}
	return tokens(float64(engine.whole("block_size")), float64(engine.whole("num_gpu_blocks")))
}

func vllmAsleep(state series) bool {
	awake := state.where("sleep_state", "awake")
	return len(awake) > 0 && awake.largest() == 0
}

// names joins comma-separated lists, each name once.
func names(lists ...string) []string {
	var all []string
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.TrimSpace(name); name != "" && !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	return all
}
