package enginesim

import "strconv"

// sglangPage has the names of SGLang's metrics. Caller holds mu.
func (s *Server) sglangPage(p *page) {
	born := s.started
	s.processFamilies(p)
	p.labels = label("model_name", s.opt.Model) + "," + label("engine_type", "unified") + "," + label("tp_rank", "0") + "," + label("pp_rank", "0")
	load, n, o := s.engine.Load(), s.engine.Counters(), &s.seen
	tokens := s.engine.Capacity()
	hit := 0.0
	if n.PromptTokens > 0 {
		hit = float64(n.CachedTokens) / float64(n.PromptTokens)
	}
	p.gauge("sglang:num_running_reqs", "Requests that run.", float64(load.Running))
	p.gauge("sglang:num_used_tokens", "Tokens held in the KV cache.", float64(int(load.KVUsage*float64(tokens)+0.5)))
	p.gauge("sglang:token_usage", "Share of the KV cache in use, 1 is all.", load.KVUsage)
	p.gauge("sglang:num_queue_reqs", "Requests in the waiting queue.", float64(load.Waiting))
	p.gauge("sglang:cache_hit_rate", "Share of prompt tokens found in the prefix cache.", hit)
	p.gauge("sglang:max_total_num_tokens", "Tokens that the KV cache holds.", float64(tokens))
	p.gauges("sglang:cache_config_info", "How the KV cache is configured.", series{
		label("page_size", strconv.Itoa(BlockTokens)) + "," + label("num_pages", strconv.Itoa(tokens/BlockTokens)), 1,
	})
	p.counter("sglang:prompt_tokens", "Prompt tokens processed.", born, float64(n.PromptTokens))
	p.counter("sglang:cached_tokens", "Prompt tokens found in the prefix cache.", born, float64(n.CachedTokens))
	p.counter("sglang:generation_tokens", "Tokens generated.", born, float64(n.GeneratedTokens))
	p.counter("sglang:num_requests", "Requests processed.", born, float64(n.Finished))
	p.counter("sglang:num_aborted_requests", "Requests aborted.", born, float64(n.Aborted))
	p.histogram("sglang:time_to_first_token_seconds", "Seconds from arrival to the first token.", born, o.firstToken)
	p.histogram("sglang:inter_token_latency_seconds", "Seconds between two tokens of a request.", born, o.interToken)
	p.histogram("sglang:e2e_request_latency_seconds", "Seconds from arrival to the last token.", born, o.endToEnd)
}
