package overload

import (
	"testing"
	"time"
)

func TestEveryAnswerIsCountedOnceUnderItsPriority(t *testing.T) {
	var tally Tally
	for _, a := range []Answer{
		{Priority: Critical, Outcome: Served, First: 100 * time.Millisecond},
		{Priority: Critical, Outcome: Served, First: 2100 * time.Millisecond},
		{Priority: Standard, Outcome: Unavailable, Reason: "rejected-ttl-expired"},
		{Priority: Standard, Outcome: Unavailable, Fault: "no JSON"},
		{Priority: Sheddable, Outcome: TooMany, Reason: "evicted-queue-pressure"},
		{Priority: Sheddable, Outcome: TooMany, Reason: "evicted-queue-pressure"},
		{Priority: Sheddable, Outcome: OtherStatus},
		{Priority: Sheddable, Outcome: Broken, Fault: "cut"},
		{Priority: Sheddable, Outcome: Unanswered, Fault: "given up"},
	} {
		tally.add(a)
	}
	critical, all := tally.of(Critical), tally.sum()
	if critical.offered != 2 || critical.inTime != 1 || critical.lost() != 0 {
		t.Errorf("Critical: %+v", critical)
	}
	if all.offered != 9 || all.notOnce() != 2 || all.faulty != 1 || len(tally.faults) != 3 || all.lost() != 1-2.0/9 {
		t.Errorf("all: %+v, %v", all, tally.faults)
	}
	ended := 0
	for _, n := range all.ended {
		ended += n
	}
	if ended != all.offered {
		t.Errorf("%d ends of %d requests", ended, all.offered)
	}
	if all.reasons["429 evicted-queue-pressure"] != 2 || all.reasons["503 rejected-ttl-expired"] != 1 {
		t.Errorf("reasons: %v", all.reasons)
	}
}

func TestTimesOfTheRunInDontCount(t *testing.T) {
	tally := Tally{from: time.Second}
	for _, at := range []time.Duration{0, 999 * time.Millisecond, time.Second, 2 * time.Second} {
		tally.add(Answer{At: at, Outcome: Served, First: 100 * time.Millisecond})
	}
	if n := tally.sum(); n.offered != 4 || n.ended[Served] != 4 || n.inTime != 4 || len(n.first) != 2 {
		t.Errorf("%+v", n)
	}
}

func TestQuantilesAreOfTheNearestRank(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[len(hundred)-1-i] = float64(i + 1)
	}
	for _, tc := range []struct {
		values  []float64
		q, want float64
	}{
		{nil, 0.99, 0},
		{[]float64{7}, 0.99, 7},
		{[]float64{7}, 0, 7},
		{[]float64{2, 1}, 0.5, 1},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 1, 100},
	} {
		if got := quantile(tc.values, tc.q); got != tc.want {
			t.Errorf("quantile %g of %d values is %g, want %g", tc.q, len(tc.values), got, tc.want)
		}
	}
}

func TestNothingOfferedIsNothingLost(t *testing.T) {
	if l := new(counts).lost(); l != 0 {
		t.Errorf("got %g", l)
	}
}
