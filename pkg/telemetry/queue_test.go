package telemetry

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const waitSeconds = "inference_extension_flow_control_request_queue_duration_seconds"

func TestWaitsByPriorityAndOutcome(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{})
	if text := page(t, reg); strings.Contains(text, waitSeconds) {
		t.Error("a picker without a queue has series of waiting")
	}
	m.Waited(1, WaitDispatched, 0)
	m.Waited(1, WaitDispatched, 30*time.Millisecond)
	m.Waited(1, WaitDispatched, 70*time.Millisecond)
	m.Waited(1, WaitDispatched, -time.Hour) // the clock was set back
	m.Waited(-1, WaitExpired, 30*time.Second)
	m.Waited(-1, WaitRefused, 0)
	m.Waited(0, WaitCancelled, 2*time.Hour)
	expect(
		t, reg,
		waitSeconds+`_count{outcome="dispatched",priority="1"} 4`,
		waitSeconds+`_sum{outcome="dispatched",priority="1"} 0.1`,
		waitSeconds+`_bucket{outcome="dispatched",priority="1",le="0.001"} 2`,
		waitSeconds+`_bucket{outcome="dispatched",priority="1",le="0.05"} 3`,
		waitSeconds+`_sum{outcome="expired",priority="-1"} 30`,
		waitSeconds+`_count{outcome="refused",priority="-1"} 1`,
		waitSeconds+`_bucket{outcome="cancelled",priority="0",le="3600"} 0`,
		waitSeconds+`_bucket{outcome="cancelled",priority="0",le="+Inf"} 1`,
		`pilotfish_queue_dispatches_total{priority="1",waited="no"} 2`,
		`pilotfish_queue_dispatches_total{priority="1",waited="yes"} 2`,
	)
	if text := page(t, reg); strings.Contains(text, `dispatches_total{priority="-1"`) {
		t.Error("what expired counts as dispatched")
	}
}

func TestQueueIsReadWhenThePageIsFetched(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{})
	var levels []QueueLevel
	m.Watch(Sources{PoolName: "llama", Queue: func() []QueueLevel { return levels }})
	expect(
		t, reg, // what can be told of a queue in which nothing ever waited
		`inference_extension_flow_control_queue_size{inference_pool="llama",priority="0"} 0`,
		`pilotfish_queue_oldest_age_seconds{inference_pool="llama",priority="0"} 0`,
	)

	levels = []QueueLevel{
		{Priority: 7, Length: 3, Bytes: 3000, OldestAge: 250 * time.Millisecond},
		{Priority: -1, Length: 10_000, Bytes: 1 << 30, OldestAge: 29 * time.Second, Flows: 12},
	}
	expect(
		t, reg,
		`inference_extension_flow_control_queue_size{inference_pool="llama",priority="7"} 3`,
		`inference_extension_flow_control_queue_bytes{inference_pool="llama",priority="7"} 3000`,
		`pilotfish_queue_oldest_age_seconds{inference_pool="llama",priority="7"} 0.25`,
		`inference_extension_flow_control_queue_size{inference_pool="llama",priority="-1"} 10000`,
		`inference_extension_flow_control_queue_bytes{inference_pool="llama",priority="-1"} 1.073741824e+09`,
		`inference_extension_flow_control_queue_size{inference_pool="llama",priority="0"} 0`,
	)

	levels = nil
	expect(
		t, reg, // lines go down to zero instead of breaking off
		`inference_extension_flow_control_queue_size{inference_pool="llama",priority="7"} 0`,
		`inference_extension_flow_control_queue_bytes{inference_pool="llama",priority="7"} 0`,
		`pilotfish_queue_oldest_age_seconds{inference_pool="llama",priority="7"} 0`,
	)
}

func TestNoQueueNoSeries(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{})
	m.Watch(Sources{PoolName: "llama"})
	if text := page(t, reg); strings.Contains(text, "queue") {
		t.Error(text)
	}
}

func TestAnyNumberOfPriorities(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{})
	var levels []QueueLevel
	m.Watch(Sources{PoolName: "p", Queue: func() []QueueLevel { return levels }})
	for i := range 1000 { // 0 to 31 are the first 32
		m.Waited(i, WaitDispatched, time.Second)
	}
	m.Waited(math.MinInt, WaitDispatched, time.Second)
	levels = []QueueLevel{
		{Priority: 31, Length: 1, Bytes: 10, OldestAge: time.Second},
		{Priority: 32, Length: 2, Bytes: 20, OldestAge: 3 * time.Second},
		{Priority: math.MaxInt, Length: 4, Bytes: 40, OldestAge: 2 * time.Second},
	}
	expect(
		t, reg,
		waitSeconds+`_count{outcome="dispatched",priority="31"} 1`,
		waitSeconds+`_count{outcome="dispatched",priority="other"} 969`,
		`pilotfish_queue_dispatches_total{priority="other",waited="yes"} 969`,
		`inference_extension_flow_control_queue_size{inference_pool="p",priority="31"} 1`,
		`inference_extension_flow_control_queue_size{inference_pool="p",priority="other"} 6`,
		`inference_extension_flow_control_queue_bytes{inference_pool="p",priority="other"} 60`,
		`pilotfish_queue_oldest_age_seconds{inference_pool="p",priority="other"} 3`,
	)
	if n := strings.Count(page(t, reg), waitSeconds+"_count{"); n != maxPriorities+1 {
		t.Errorf("%d priorities on the page, want %d and the rest", n, maxPriorities)
	}
	levels = nil
	expect(t, reg, `inference_extension_flow_control_queue_size{inference_pool="p",priority="other"} 0`)
}

func TestWaitsAreCountedFromManySides(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{})
	m.Watch(Sources{Queue: func() []QueueLevel { return []QueueLevel{{Priority: 5, Length: 1}, {Priority: 99, Length: 1}} }})
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 400 {
				m.Waited((g+i)%40, []string{WaitDispatched, WaitExpired}[i%2], time.Millisecond)
				if i%100 == 0 {
					if _, err := reg.Gather(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var waits uint64
	var dispatches float64
	for _, f := range families {
		for _, metric := range f.Metric {
			switch f.GetName() {
			case waitSeconds:
				waits += metric.Histogram.GetSampleCount()
			case "pilotfish_queue_dispatches_total":
				dispatches += metric.Counter.GetValue()
			}
		}
	}
	if waits != 3200 || dispatches != 1600 {
		t.Errorf("%d waits and %v dispatches, want 3200 and 1600", waits, dispatches)
	}
}

func TestWaitedAllocatesNothing(t *testing.T) {
	m := New(prometheus.NewRegistry(), Build{})
	for i := range 100 {
		m.Waited(i, WaitDispatched, 0)
	}
	m.Waited(1, WaitExpired, 0)
	if n := testing.AllocsPerRun(1000, func() {
		m.Waited(1, WaitDispatched, time.Second)
		m.Waited(1, WaitExpired, time.Second)
		m.Waited(12345, WaitDispatched, 0) // one of the rest
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestViewOfTheQueue(t *testing.T) {
	tests := []struct {
		levels []QueueLevel
		want   string
	}{
		{nil, `{"waiting":0,"bytes":0,"levels":[]}`},
		{
			[]QueueLevel{
				{Priority: -1, Length: 2, Bytes: 200, OldestAge: 1500 * time.Microsecond, Flows: 2},
				{Priority: 0}, // nothing waits there
				{Priority: 1, Length: 1, Bytes: 50, OldestAge: 2 * time.Second},
			},
			`{"waiting":3,"bytes":250,"levels":[` +
				`{"priority":1,"waiting":1,"bytes":50,"oldestMs":2000},` +
				`{"priority":-1,"waiting":2,"bytes":200,"oldestMs":1.5,"flows":2}]}`,
		},
	}
	for i, test := range tests {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			got, err := json.Marshal(ViewQueue(test.levels))
			if err != nil || string(got) != test.want {
				t.Errorf("%s, %v\nwant %s", got, err, test.want)
			}
		})
	}
}

func BenchmarkWaited(b *testing.B) {
	m := New(prometheus.NewRegistry(), Build{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Waited(-1, WaitDispatched, 20*time.Millisecond)
		}
	})
}
