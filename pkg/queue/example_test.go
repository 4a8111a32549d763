package queue_test

import (
	"fmt"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/queue"
)

func Example() {
	now := time.Now()
	q := queue.New[string](1000, 30*time.Second)
	discarded := func(it *queue.Item[string]) { fmt.Println("discarded:", it.Value) }

	q.Push(now, &queue.Item[string]{Value: "nightly batch", Priority: -1, Bytes: 600, Tokens: 500}, discarded)
	q.Push(now, &queue.Item[string]{Value: "chat, only for gpu-a", Lane: 1, Bytes: 300, Tokens: 200}, discarded)
	q.Push(now, &queue.Item[string]{Value: "chat", Bytes: 300, Tokens: 200}, discarded)

	q.Dispatch(now.Add(time.Second), func(it *queue.Item[string]) queue.Try {
		if it.Lane == 1 {
			return queue.LaneFull
		}
		fmt.Println("goes:", it.Value)
		return queue.Taken
	})

	deadline, _ := q.Deadline()
	q.Expire(deadline, func(it *queue.Item[string]) { fmt.Println("expired:", it.Value) })
	// Output:
	// discarded: nightly batch
	// goes: chat
	// expired: chat, only for gpu-a
}
