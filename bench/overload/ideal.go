package overload

import (
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

// kvRoom is the share of an engine's KV cache up to which the ideal queue gives it more, as a pod by default.
const kvRoom = 0.8

// ideal is a queue that at every moment knows what each engine has. It binds the first of the highest priority as soon
// as an engine has a free place, with no delay, no proxy and no picker, in virtual time. What Critical's times are with
// it lies in the engines and the load; no queue has to answer for that.
type ideal struct {
	from    time.Duration // times of requests before that don't count
	engines []*enginesim.Engine
	room    []int         // free places of each engine
	waiting [3][]*Request // by place
	first   [3][]float64  // milliseconds to the first token, by place
}

// bound is a request at an engine.
type bound struct {
	*Request
	engine int
}

// idealFirstTokens plays requests until the last one has come, and returns Critical's times to the first token in
// milliseconds, of those that came at from or later.
func idealFirstTokens(p enginesim.Profile, engines int, requests []Request, from time.Duration) ([]float64, error) {
	q := &ideal{from: from}
	for range engines {
		e, err := enginesim.NewEngine(enginesim.Config{Profile: p})
		if err != nil {
			return nil, err
		}
		q.engines, q.room = append(q.engines, e), append(q.room, p.MaxSeqs)
	}
	for i := range requests {
		r := &requests[i]
		for {
			due, engine, busy := q.next()
			if !busy || due > r.At {
				break
			}
			if err := q.step(due, engine); err != nil {
				return nil, err
			}
		}
		q.waiting[r.Priority.place()] = append(q.waiting[r.Priority.place()], r)
		if err := q.dispatch(r.At); err != nil {
			return nil, err
		}
	}
	return q.first[Critical.place()], nil
}

// next is the engine whose step ends first.
func (q *ideal) next() (due time.Duration, engine int, busy bool) {
	for i, e := range q.engines {
		if at, ok := e.Next(); ok && (!busy || at < due) {
			due, engine, busy = at, i, true
		}
	}
	return due, engine, busy
}

func (q *ideal) step(now time.Duration, engine int) error {
	for _, event := range q.engines[engine].Step(now) {
		r := event.Request.Data.(bound)
		if event.Request.Generated == 1 && r.At >= q.from {
			q.first[r.Priority.place()] = append(q.first[r.Priority.place()], milliseconds(now-r.At))
		}
		if event.Finished {
			q.room[r.engine]++
		}
	}
	return q.dispatch(now)
}

// dispatch binds while there is room, each to the engine with most of it.
func (q *ideal) dispatch(now time.Duration) error {
	for place := range q.waiting {
		for len(q.waiting[place]) > 0 {
			engine, found := q.roomiest()
			if !found {
				return nil
			}
			r := q.waiting[place][0]
			q.waiting[place] = q.waiting[place][1:]
			q.room[engine]--
			err := q.engines[engine].Submit(now, &enginesim.Request{PromptTokens: r.Prompt, OutputTokens: r.Answer, Data: bound{r, engine}})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (q *ideal) roomiest() (engine int, found bool) {
	for i, room := range q.room {
		if room > 0 && (!found || room > q.room[engine]) && q.engines[i].Load().KVUsage < kvRoom {
			engine, found = i, true
		}
	}
	return engine, found
}
