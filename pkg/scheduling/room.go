package scheduling

import (
	"slices"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

// Room says which pods take more requests. It counts what was sent since a pod's report, so that no pod is overfilled
// between two of them, and all of them have less than the share KV of their KV cache in use.
//
// A pod takes more while fewer than Depth wait there, places known to be free not counted, in bursts of Burst requests a
// report, since all that reach a pod within one step wait for the next. One that is not known to be full also takes more
// than it has by a part, or by Burst, a report, until it lets Depth wait: so it is found out how many places it has.
//
// A pod whose report is stale takes Depth more than ever ran there at once. Of one whose page can't be read nothing is
// known: it takes as many as are at the fullest pod with a fresh report, and any number when there is none. So missing
// metrics neither stop traffic nor draw all of it to where nothing is known. A pod that has just joined waits for its page:
// the proxy may not know it yet either.
type Room struct {
	Depth int     // requests
	Burst int     // requests
	KV    float64 // 0..1

	// Patient requests go only into a place that is known to be free, or is looked for: the wait for the next one at any
	// pod is shorter than the wait for the next one at a full pod.
	Patient bool
	// Low requests also leave one place of reservedOf free there, for those of a higher priority to find.
	Low bool
}

// Parts of a pod's requests or places.
const (
	reservedOf      = 16
	burstOf         = 4  // of the places that may be free
	growthOf        = 4  // of a pod that never was full: in four reports it takes twice as many
	regrowthOf      = 8  // of one that was
	patientGrowthOf = 32 // the same for those who can wait for a place that is known to be free
)

// has says whether the pod, which must be trusted, takes another request. pods are all of them.
func (m *Room) has(q *question, pod *pool.Pod, pods []*pool.Pod) bool {
	l := pod.Load
	switch {
	case l.Fresh(q.now, q.Staleness):
		return (m.fits(l) || !l.Full(q.now) && m.grows(l)) && q.usage(l) < m.KV
	case l.HasReport:
		return l.InFlight < l.Places+m.Depth
	case l.PageFailures > 0:
		most := q.fullest(pods)
		return most < 0 || l.InFlight <= most
	}
	return false
}

// fits goes by the places that are known.
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

// grows finds out whether there are more.
func (m *Room) grows(l *pool.Load) bool {
	had := l.Report.Counted
	var more int
	switch {
	case l.FullAt == 0:
		more = max(m.Burst, had/growthOf)
	case m.Patient:
		more = max(1, had/patientGrowthOf)
	default:
		more = max(1, m.Burst-1, had/regrowthOf) // one less, as margin is
	}
	return l.Report.Waiting < m.Depth && l.InFlight+l.Report.Waiting < had+more
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
