// Package queue holds requests that wait for a pod with room: who waits, who goes next, who is discarded.
//
// It is a pure structure: time is passed in, what an item stands for is the caller's, nothing is logged or counted elsewhere. It
// never holds more than its capacity in bytes. Requests go by priority, strictly; within a priority flows share by deficit round
// robin in tokens, and within a flow the oldest goes first, save that a request whose pods are full stands in nobody's way. Every
// operation takes O(log n) steps at most, allocates nothing once warm, and an item costs 112 bytes, its own fields included.
package queue
