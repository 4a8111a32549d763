// Package queue holds requests that wait for a pod with room: who waits, who goes next, who is discarded.
//
// It is a pure structure: time is passed in, what an item stands for is the caller's, nothing is logged or counted elsewhere. It
// never holds more than its capacity in bytes. Requests go by priority, strictly; within a priority flows share by deficit round
// robin in tokens, and within a flow the oldest goes first, save that a request whose pods are full stands in nobody's way.
//
// Every operation takes O(log n) steps for each item concerned, and says where it takes more; priorities are taken to be few. Nothing
// is allocated once warm. An item costs 112 bytes, its own fields included, and a flow that waits about 310 more.
package queue
