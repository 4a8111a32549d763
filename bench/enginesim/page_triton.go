package enginesim

import "time"

// tritonPage has the names of Triton's metrics with the TensorRT-LLM backend. Caller holds mu.
func (s *Server) tritonPage(p *page) {
	load, n := s.engine.Load(), s.engine.Counters()
	profile := s.opt.Profile
	blocks := float64(s.engine.Capacity() / BlockTokens)
	used := load.KVUsage * blocks

	p.labels = label("model", s.opt.Model) + "," + label("version", "1")
	p.total("nv_inference_request_success", "Requests that have succeeded.", float64(n.Finished))
	p.total("nv_inference_request_failure", "Requests that have failed.", float64(n.Aborted))
	p.total("nv_inference_count", "Inferences performed.", float64(n.Finished))
	p.total("nv_inference_exec_count", "Executions of the model.", float64(n.Steps))
	p.gauge("nv_inference_pending_request_count", "Requests not yet given to the backend.", 0)

	p.labels = label("model", "tensorrt_llm") + "," + label("version", "1")
	p.gauges("nv_trt_llm_request_metrics", "Requests of the TensorRT-LLM backend.",
		series{label("request_type", "waiting"), float64(load.Waiting)},
		series{label("request_type", "context"), 0},
		series{label("request_type", "scheduled"), float64(load.Running)},
		series{label("request_type", "max"), float64(profile.MaxSeqs)},
		series{label("request_type", "active"), float64(load.Running + load.Waiting)})
	p.gauges("nv_trt_llm_runtime_memory_metrics", "Bytes in use by the runtime.",
		series{label("memory_type", "pinned"), 0},
		series{label("memory_type", "gpu"), 0},
		series{label("memory_type", "cpu"), 0})
	p.gauges("nv_trt_llm_kv_cache_block_metrics", "Blocks of the KV cache.",
		series{label("kv_cache_block_type", "fraction"), load.KVUsage},
		series{label("kv_cache_block_type", "tokens_per"), BlockTokens},
		series{label("kv_cache_block_type", "used"), float64(int(used + 0.5))},
		series{label("kv_cache_block_type", "free"), float64(int(blocks - used + 0.5))},
		series{label("kv_cache_block_type", "max"), blocks})
	p.gauges("nv_trt_llm_inflight_batcher_metrics", "State of the in-flight batcher.",
		series{label("inflight_batcher_specific_metric", "micro_batch_id"), 0},
		series{label("inflight_batcher_specific_metric", "generation_requests"), float64(load.Running)},
		series{label("inflight_batcher_specific_metric", "total_context_tokens"), 0})
	p.gauges("nv_trt_llm_general_metrics", "General state of the backend.",
		series{label("general_type", "iteration_counter"), float64(n.Steps)},
		series{label("general_type", "timestamp"), float64(time.Now().Unix())})
}

// total adds a counter that has no suffix and no creation time.
func (p *page) total(name, help string, v float64) {
	p.family(name, "counter", help)
	p.sample(name, "", v)
}
