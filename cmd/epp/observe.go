package main

import (
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/routing"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
	"github.com/pilotfish-epp/pilotfish/pkg/telemetry"
)

// observer turns what routing tells into metrics and decision records.
type observer struct {
	metrics   *telemetry.Metrics
	decisions *telemetry.Decisions
	settings  *settings.Store
	now       func() time.Time
}

// names are the model asked for and the one sent to the engine.
func names(a *routing.Arrival) (model, target string) {
	if a.Body != nil {
		model = a.Body.Model
	}
	if a.Rewrite != "" {
		return model, a.Rewrite
	}
	return model, model
}

// Picked implements routing.Observer.
func (o *observer) Picked(d *routing.Decision) {
	model, target := names(d.Arrival)
	o.metrics.Picked(&telemetry.Pick{
		Model: model, Target: target, Reason: d.Pick.Reason.String(), Latency: d.Took,
		Blocks: d.Blocks, Matched: d.Matched, BlockSize: o.settings.Current().PrefixCacheHashBlockSize,
	})
	if !o.decisions.On() {
		return
	}
	record := o.record(d.Arrival, model, target)
	pod := d.Pick.Pods[0]
	record.Pod, record.Address = pod.Name, pod.Authority
	record.Blocks, record.Matched = d.Blocks, d.Matched
	record.Reason, record.Cost, record.Candidates = d.Pick.Reason.String(), d.Pick.Cost.Total(), d.Pick.Candidates
	record.Latency, record.Wait, record.Priority = d.Took, d.Waited, d.Priority
	o.decisions.Write(&record)
}

// Refused implements routing.Observer.
func (o *observer) Refused(a *routing.Arrival, r *routing.Refusal) {
	model, target := names(a)
	o.metrics.Refused(model, target, r.Status)
	if !o.decisions.On() {
		return
	}
	record := o.record(a, model, target)
	record.Status, record.Reason = r.Status, r.Code
	o.decisions.Write(&record)
}

func (o *observer) record(a *routing.Arrival, model, target string) telemetry.Decision {
	record := telemetry.Decision{Time: o.now(), RequestID: a.RequestID, Model: model, Target: target}
	if a.Body != nil {
		record.Bytes = a.Body.PromptBytes
	}
	return record
}

// Finished implements routing.Observer.
func (o *observer) Finished(out *routing.Outcome) {
	o.metrics.Finished(&telemetry.Done{
		Model: out.Model, Target: out.Target, Status: out.Status, End: endText(out.End),
		RequestBytes: out.BodyBytes, ResponseBytes: out.ResponseBytes, Duration: out.Duration, FirstToken: out.FirstToken,
		HasUsage: out.Usage.Present, Prompt: out.Usage.Prompt, Cached: out.Usage.Cached, Completion: out.Usage.Completion,
		Predicted: out.Predicted,
	})
}

// Waited implements routing.Observer.
func (o *observer) Waited(w *routing.Wait) { o.metrics.Waited(w.Priority, waitText(w.End), w.Took) }

func waitText(e routing.WaitEnd) string {
	switch e {
	case routing.Dispatched:
		return telemetry.WaitDispatched
	case routing.Discarded:
		return telemetry.WaitDiscarded
	case routing.Expired:
		return telemetry.WaitExpired
	case routing.Cancelled:
		return telemetry.WaitCancelled
	case routing.Closed:
		return telemetry.WaitShutdown
	}
	return telemetry.WaitRefused
}

func endText(e routing.End) string {
	switch e {
	case routing.Completed:
		return telemetry.EndCompleted
	case routing.ClientGone:
		return telemetry.EndClientGone
	case routing.Unfollowed:
		return telemetry.EndUnfollowed
	}
	return telemetry.EndShuttingDown
}
