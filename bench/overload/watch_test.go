package overload

import (
	"bytes"
	"context"
	"errors"
	"runtime/pprof"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

func TestWhatNoEngineHasIsInThePickersHands(t *testing.T) {
	stats := []enginesim.Stats{{Running: 4, Waiting: 1}, {Running: 3}}
	for _, tc := range []struct{ open, want int64 }{{20, 12}, {8, 0}, {7, 0}} {
		if got := held(stats, tc.open); got != tc.want {
			t.Errorf("%d open: %d held, want %d", tc.open, got, tc.want)
		}
	}
}

func TestLooksKeepTheMost(t *testing.T) {
	var o observations
	for _, waiting := range [][2]int{{0, 5}, {6, 7}, {5, 5}, {6, 0}} {
		o.look([]enginesim.Stats{{Waiting: waiting[0], Running: 2}, {Waiting: waiting[1]}}, 20, 5)
	}
	if o.looks != 4 || o.above != 2 || o.mostWaiting != 7 || o.sumRunning != 8 || o.mostHeld != 13 {
		t.Errorf("%+v", o)
	}
}

// The page that is read is Go's own, so this notices when Go changes it.
func TestTheLiveHeapIsReadFromAProfile(t *testing.T) {
	var page bytes.Buffer
	if err := pprof.Lookup("heap").WriteTo(&page, 1); err != nil {
		t.Fatal(err)
	}
	if n, err := heapAlloc(page.Bytes()); err != nil || n < 10_000 || n > 1<<30 {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := heapAlloc([]byte("# Sys = 12\n")); err == nil || !strings.Contains(err.Error(), "no line with HeapAlloc") {
		t.Errorf("got %v", err)
	}
}

func TestHeapIsHeldAgainstWhatWaitedAtThatTime(t *testing.T) {
	o := observations{heap: []heapSample{{live: 200, waiting: 10}, {live: 180, waiting: 1}, {live: 100, waiting: 0}}}
	if got := o.beyond(100, 10); got != 70 { // 180 - 100 - 10
		t.Errorf("got %d, want 70", got)
	}
	o.heap = o.heap[:1]
	if got := o.beyond(300, 10); got != -200 {
		t.Errorf("got %d, want -200: less than allowed", got)
	}
}

func TestAPageThatCannotBeReadIsNoSampleButIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), heapEvery*5/2)
		defer cancel()
		calls := 0
		o := observe(ctx, nil, &client{}, 5, func(context.Context) ([]byte, error) {
			if calls++; calls == 1 {
				return nil, errors.New("404")
			}
			return []byte("# HeapAlloc = 42\n"), nil
		})
		if len(o.heap) != 1 || o.heap[0].live != 42 || o.heapErr == nil {
			t.Errorf("%+v", o)
		}
		if want := int(heapEvery * 5 / 2 / lookEvery); o.looks < want-1 || o.looks > want {
			t.Errorf("%d looks, want %d", o.looks, want)
		}
	})
}

func TestLimitsAreWhatThePickerSays(t *testing.T) {
	const page = `{"settings":[{"name":"SD_QUEUE_DEPTH_THRESHOLD","value":"5"},{"name":"TOTAL_QUEUE_CAPACITY","value":"104857600"},{"name":"QUEUE_TTL","value":"30s"}]}`
	l, err := readLimits([]byte(page))
	if err != nil || l != (limits{5, 104857600, 30 * time.Second}) {
		t.Errorf("%+v, %v", l, err)
	}
	for _, tc := range []struct{ page, want string }{
		{strings.Replace(page, "QUEUE_TTL", "TTL", 1), "QUEUE_TTL"},
		{strings.Replace(page, "104857600", "100Mi", 1), "TOTAL_QUEUE_CAPACITY"},
		{"<html>", "/settings"},
	} {
		if _, err := readLimits([]byte(tc.page)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%.30s: got %v, want something about %s", tc.page, err, tc.want)
		}
	}
}
