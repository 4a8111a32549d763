package enginesim

// queue is a double-ended queue of waiting requests: arrivals at the back, preempted ones at the front.
type queue struct {
	ring  []*Request // length is a power of two
	first int
	n     int
}

func (q *queue) len() int { return q.n }

func (q *queue) at(i int) *Request { return q.ring[(q.first+i)&(len(q.ring)-1)] }

func (q *queue) set(i int, r *Request) { q.ring[(q.first+i)&(len(q.ring)-1)] = r }

func (q *queue) pushBack(r *Request) {
	q.room()
	q.n++
	q.set(q.n-1, r)
}

func (q *queue) pushFront(r *Request) {
	q.room()
	q.first = (q.first - 1) & (len(q.ring) - 1)
	q.n++
	q.set(0, r)
}

// remove takes out the i-th request; the ones before it, fewer as a rule, move up.
func (q *queue) remove(i int) {
	for ; i > 0; i-- {
		q.set(i, q.at(i-1))
	}
	q.set(0, nil)
	q.first = (q.first + 1) & (len(q.ring) - 1)
	q.n--
}

func (q *queue) index(r *Request) int {
	for i := range q.n {
		if q.at(i) == r {
			return i
		}
	}
	return -1
}

func (q *queue) room() {
	if q.n < len(q.ring) {
		return
	}
	ring := make([]*Request, max(16, 2*len(q.ring)))
	for i := range q.n {
		ring[i] = q.at(i)
	}
	q.ring, q.first = ring, 0
}
