package overload

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// limits are the picker's settings that the figures refer to, as it says itself that they are in force.
type limits struct {
	threshold int           // requests waiting at an engine
	capacity  int64         // bytes of the queue
	ttl       time.Duration // of who waits
}

// readLimits reads the picker's /settings page.
func readLimits(page []byte) (limits, error) {
	var table struct {
		Settings []struct{ Name, Value string }
	}
	if err := json.Unmarshal(page, &table); err != nil {
		return limits{}, fmt.Errorf("the picker's /settings: %w", err)
	}
	values := map[string]string{}
	for _, row := range table.Settings {
		values[row.Name] = row.Value
	}
	var l limits
	var err error
	if l.threshold, err = strconv.Atoi(values["SD_QUEUE_DEPTH_THRESHOLD"]); err != nil {
		return l, fmt.Errorf("the picker's SD_QUEUE_DEPTH_THRESHOLD: %w", err)
	}
	if l.capacity, err = strconv.ParseInt(values["TOTAL_QUEUE_CAPACITY"], 10, 64); err != nil {
		return l, fmt.Errorf("the picker's TOTAL_QUEUE_CAPACITY: %w", err)
	}
	if l.ttl, err = time.ParseDuration(values["QUEUE_TTL"]); err != nil {
		return l, fmt.Errorf("the picker's QUEUE_TTL: %w", err)
	}
	return l, nil
}
