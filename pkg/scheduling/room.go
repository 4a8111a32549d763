package scheduling

import (
	"slices"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

// Room says which pods take more requests. It counts what was sent since a pod's report, so that no pod is overfilled
// between two of them, and all of them have less than the share KV of their KV cache in use.
//
// A pod that had requests waiting of late runs as many as it can. It takes more while fewer than Depth wait there, places
// known to be free not counted, in bursts of Burst requests a report, since all that reach a pod within one step wait for
// the next. Any other pod takes more than it has by a part, or by Burst, a report, until it lets Depth wait: so it is found
// out how much it takes.
//
// A pod whose report is stale takes Depth more than ever ran there at once. Of one whose page can't be read nothing is
// known: it takes as many as are at the fullest pod with a fresh report, and any number when there is none. So missing
// metrics neither stop traffic nor draw all of it to where nothing is known. A pod that has just joined waits for its page:
// the proxy may not know it yet either.
type Room struct {
	Depth int     // requests
	Burst int     // requests
	KV    float64 // 0..1

	// Patient requests go to a pod that was full of late only into a place that is known to be free: the wait for the next
	// one at any pod is shorter than the wait for the next one at that pod.
	Patient bool
	// Low requests also leave one place of reservedOf free there, for those of a higher priority to find.
	Low bool
}

// fullOfLate is how long a pod that let others wait is taken to run as many requests as it can.
const fullOfLate = 5 * time.Second

// Parts of a pod's requests or places.
const (
	reservedOf  = 16
	burstOf     = 4  // of the places that may be free
	growthOf    = 4  // of a pod that never was full: in so many reports it takes twice as many
	regrowthOf  = 8  // of one that was full, some time ago
	lowGrowthOf = 32 // the same for low requests, which others might have to wait for
)

// has says whether the pod, which must be trusted, takes another request. pods are all of them.
func (m *Room) has(q *question, pod *pool.Pod, pods []*pool.Pod) bool {
	l := pod.Load
	switch {
	case l.Fresh(q.now, q.Staleness):
		if q.now.Since(l.FullAt) < fullOfLate {
			return m.fits(l) && q.usage(l) < m.KV
		}
		return m.grows(l) && q.usage(l) < m.KV
	case l.HasReport:
		return l.InFlight < l.Places+m.Depth
	case l.PageFailures > 0:
		most := q.fullest(pods)
		return most < 0 || l.InFlight <= most
	}
	return false
}

// fits is for a pod that was full of late.
func (m *Room) fits(l *pool.Load) bool {
	reserved := 0
	if m.Low {
		reserved = l.Places / reservedOf
	}
	if m.Patient && l.Free() <= reserved {
		return false
	}
	return l.Waiting()+m.margin(l) < m.Depth && l.Sent() < max(m.Burst, l.Places/burstOf)
}

// grows is for any other pod.
func (m *Room) grows(l *pool.Load) bool {
	now := l.Report.Counted
	more := max(m.Burst, now/growthOf)
	switch {
	case l.FullAt == 0:
	case m.Low:
		more = max(1, now/lowGrowthOf)
	default:
		more = max(m.Burst, now/regrowthOf)
	}
	return l.Report.Waiting < m.Depth && l.InFlight < now+more
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
	if l.Requests(true) == 0 {
		return 0 // what is cached there makes way
	}
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

// roomy gives the class of a pod, c, for a request that needs room.
func (q *question) roomy(c class, pod *pool.Pod, pods []*pool.Pod) class {
	l := pod.Load
	switch {
	case c <= trial && !q.r.Room.has(q, pod, pods):
		return full
	case c == setAside && !l.Refused && !l.Report.Asleep && l.Unanswered() == 0 && l.Fresh(q.now, q.Staleness):
		return hopeful
	}
	return c
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

// Saturated says whether the pods that r may go to, and that are trusted, are all known to be saturated: Depth requests
// wait there, or the share KV of their KV cache is in use. Where there is none, nothing is saturated.
func Saturated(now time.Time, pods []*pool.Pod, r *Request, params *Params, room *Room) bool {
	q := params.ask(now, r)
	trusted := false
	for _, pod := range pods {
		if r.HasSubset && !slices.Contains(r.Subset, pod.Address) || classify(q.now, pod.Load) > trial {
			continue
		}
		l := pod.Load
		full := l.Report.Waiting > 0 && l.Report.Waiting+l.Sent() >= room.Depth || q.usage(l) >= room.KV
		if !full || !l.Fresh(q.now, q.Staleness) {
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
