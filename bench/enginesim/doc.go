// Package enginesim is a simulated model server that schedules like vLLM.
//
// [Engine] is the scheduler alone: paged KV blocks with a prefix cache, chunked prefill, continuous batching and
// recompute preemption, in virtual time that the caller passes in. It is deterministic, does no I/O and its steps
// allocate nothing, so hours of a trace run in seconds. [Server] puts an OpenAI-compatible HTTP server, a metrics page
// and fault switches around one Engine and lets real time, times a factor, drive it. A token is four characters of text.
package enginesim
