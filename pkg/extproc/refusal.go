package extproc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/routing"
)

// memoryRetry is the wait that a refusal for lack of memory advises: it comes back as fast as requests are answered.
const memoryRetry = time.Second

// malformed refuses a body that is no JSON; err nil: there is no body at all.
func malformed(err error, body []byte) *routing.Refusal {
	r := &routing.Refusal{Status: http.StatusBadRequest, Code: "invalid_json"}
	var syntax *request.SyntaxError
	switch {
	case err == nil:
		r.Message = "malformed JSON at byte 0: expected an object, got no body"
	case errors.As(err, &syntax):
		line, column := syntax.Position(body)
		r.Message = fmt.Sprintf("%v (line %d, column %d)", err, line, column)
	default:
		r.Message = err.Error()
	}
	return r
}

func tooLarge(limit int64) *routing.Refusal {
	return &routing.Refusal{
		Status: http.StatusRequestEntityTooLarge, Code: "request_too_large",
		Message: fmt.Sprintf("the request body is larger than the %d bytes allowed here (MAX_REQUEST_BODY)", limit),
	}
}

// outOfMemory refuses a body that finds the memory for bodies taken. In full duplex a client that stalls amid its body
// takes some for as long as the gateway lets it: that time is the gateway's to bound (Envoy's request_timeout).
func outOfMemory() *routing.Refusal {
	return &routing.Refusal{
		Status: http.StatusServiceUnavailable, Code: "buffers_full", Reason: routing.ReasonSaturated, RetryAfter: memoryRetry,
		Message: "too many request bodies are waiting here (MAX_BUFFERED); try again",
	}
}

func internal() *routing.Refusal {
	return &routing.Refusal{
		Status: http.StatusInternalServerError, Code: "internal_error",
		Message: "the endpoint picker failed on this request; its log says why",
	}
}

// refuse turns away a request that the router has not refused, and tells the router of it.
func (s *stream) refuse(r *routing.Refusal) error {
	s.server.router.Refused(s.arrived(), r)
	return s.turnAway(r)
}

// turnAway answers the request here and ends the stream.
func (s *stream) turnAway(r *routing.Refusal) error {
	s.request = requestOver
	s.drop()
	s.server.counters.refused(r)
	text := errorText(r, s.kind)
	if err := s.send(s.encoder.immediate(r.Status, refusalHeaders(r), text, "pilotfish_"+r.Code)); err != nil {
		return err
	}
	return errDone
}

func refusalHeaders(r *routing.Refusal) []set {
	headers := []set{{"content-type", "application/json"}}
	if r.RetryAfter > 0 {
		seconds := max(1, int(math.Ceil(r.RetryAfter.Seconds())))
		headers = append(headers, set{"retry-after", strconv.Itoa(seconds)})
	}
	if r.Reason != "" {
		headers = append(headers, set{headerDropped, r.Reason})
	}
	return headers
}

// apiError is the error that clients of the OpenAI API know; with Type also the one of the Anthropic API.
type apiError struct {
	Type  string `json:"type,omitempty"`
	Error struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	} `json:"error"`
}

func errorText(r *routing.Refusal, k request.Kind) string {
	var e apiError
	e.Error.Message, e.Error.Type, e.Error.Code = r.Message, errorType(r.Status), r.Code
	if k == request.Messages {
		e.Type = "error"
	}
	var b bytes.Buffer
	to := json.NewEncoder(&b)
	to.SetEscapeHTML(false)
	_ = to.Encode(&e) // of strings alone: it can't fail
	return b.String()
}

func errorType(status int) string {
	switch {
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status < http.StatusInternalServerError:
		return "invalid_request_error"
	}
	return "server_error"
}
