package scheduling

import (
	"slices"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

// Room says which pods take more requests: those that are trusted, let fewer than Depth requests wait, and have less than
// the share KV of their KV cache in use. What was sent since the pod's report counts, so that no pod is overfilled between
// two of them, and free places are taken in bursts of Burst requests a report, since all that reach a pod within one step
// wait for the next.
//
// A pod whose report is stale takes Depth more than ever ran there at once. Of one whose page can't be read nothing is
// known: it takes as many as are at the fullest pod with a fresh report, and any number when there is none. So missing
// metrics neither stop traffic nor draw all of it to where nothing is known. A pod that has just joined waits for its page:
// the proxy may not know it yet either.
type Room struct {
	Depth int     // requests
	Burst int     // requests
	KV    float64 // 0..1

	// Patient requests go to a pod that let others wait within the last fullOfLate only into a place that is known to be
	// free: the wait for the next one at any pod is shorter than the wait for the next one at that pod.
	Patient bool
	// Low requests also leave one place of reservedOf free there, for those of a higher priority to find.
	Low bool
}

const reservedOf = 16

// burstShare is the part of a pod's places that a burst may take where that is more.
const burstShare = 4

// fullOfLate is how long a pod that let others wait is taken to run as many requests as it can.
const fullOfLate = 5 * time.Second

// has says whether the pod, which must be trusted, takes another request. pods are all of them.
func (m *Room) has(q *question, pod *pool.Pod, pods []*pool.Pod) bool {
	l := pod.Load
	switch {
	case l.Fresh(q.now, q.Staleness):
		if m.Patient && q.now.Since(l.FullAt) < fullOfLate && l.Free() <= m.reserved(l) {
			return false
		}
		return l.Waiting()+m.margin(l) < m.Depth && l.Sent() < max(m.Burst, l.Places/burstShare) && q.usage(l) < m.KV
	case l.HasReport:
		return l.InFlight < l.Places+m.Depth
	case l.PageFailures > 0:
		most := q.fullest(pods)
		return most < 0 || l.InFlight <= most
	}
	return false
}

func (m *Room) reserved(l *pool.Load) int {
	if m.Low {
		return l.Places / reservedOf
	}
	return 0
}

// margin is for a request that had ended at the pod when its page was read, and was still counted here.
func (m *Room) margin(l *pool.Load) int {
	if m.Depth > 1 && l.Sent() > 0 {
		return 1
	}
	return 0
}

// usage is the share of the pod's KV cache that is in use: as in its report, which must be fresh, less what ended since,
// and with what was sent since.
func (q *question) usage(l *pool.Load) float64 {
	usage := l.Report.KVUsage * stillThere(l, float64(l.Requests(true)))
	if sent := l.Uncached - l.Report.Uncached; sent > 0 {
		capacity := float64(l.Report.KVTokens)
		if capacity == 0 {
			capacity = q.Engine.KVTokens
		}
		usage += float64(sent) / capacity
	}
	return usage
}

const notLooked = -2

// fullest gives the number of requests at the fullest of the pods with a fresh report, or -1 when there is none. It looks
// once.
func (q *question) fullest(pods []*pool.Pod) int {
	if q.most != notLooked {
		return q.most
	}
	q.most = -1
	for _, pod := range pods {
		if pod.Load.Fresh(q.now, q.Staleness) && classify(q.now, pod.Load) <= trial {
			q.most = max(q.most, pod.Load.Requests(true))
		}
	}
	return q.most
}

// Saturated says whether the pods that r may go to, and that are trusted, all have no room. Where there is none, nothing
// is saturated.
func Saturated(now time.Time, pods []*pool.Pod, r *Request, params *Params, room *Room) bool {
	q := params.ask(now, r)
	trusted := false
	for _, pod := range pods {
		if r.HasSubset && !slices.Contains(r.Subset, pod.Address) || classify(q.now, pod.Load) > trial {
			continue
		}
		if room.has(&q, pod, pods) {
			return false
		}
		trusted = true
	}
	return trusted
}

// Alive says whether any pod that r may go to is trusted.
func Alive(now time.Time, pods []*pool.Pod, r *Request) bool {
	at := pool.At(now)
	return slices.ContainsFunc(pods, func(pod *pool.Pod) bool {
		return (!r.HasSubset || slices.Contains(r.Subset, pod.Address)) && classify(at, pod.Load) <= trial
	})
}
