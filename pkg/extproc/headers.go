package extproc

import (
	"bytes"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pilotfish-epp/pilotfish/pkg/routing"
)

// Names of headers that the picker reads or writes. The older names of the family are aliases.
const (
	headerRequestID     = "x-request-id"
	headerContentLength = "content-length"
	headerSteer         = "test-epp-endpoint-selection"
	headerServedTest    = "x-conformance-test-served-endpoint"
	headerSeenTest      = "x-went-into-resp-headers"
	headerDropped       = "x-llm-d-request-dropped-reason"
)

// maxHeaderName is longer than the name of any header that is looked at.
const maxHeaderName = 64

// requestHead is what the headers of a request say to the picker.
type requestHead struct {
	path, requestID              string
	objective, fairness, rewrite string
	contentLength                int64 // -1: not said
	encoded                      bool  // the body is compressed
	foreign                      bool  // the body says to be something that is not JSON
	post                         bool
	steer                        string
	control                      []string // names of control headers that must not go on to the engine
}

// ask keeps the value of a control header that asks for something.
func (h *requestHead) ask(name, value string) {
	switch name {
	case "x-gateway-inference-objective", "x-llm-d-inference-objective":
		h.objective = value
	case "x-gateway-inference-fairness-id", "x-llm-d-inference-fairness-id":
		h.fairness = value
	case "x-gateway-model-name-rewrite", "x-llm-d-model-name-rewrite":
		h.rewrite = value
	}
}

// isControl says whether name belongs to the picker's protocol, so that a client has no business to have it forwarded.
// The destination itself is not among them: it is always overwritten.
func isControl(name []byte) bool {
	for _, prefix := range [...]string{
		"x-gateway-destination-endpoint-", "x-gateway-inference-", "x-gateway-model-name-rewrite", "x-llm-d-",
	} {
		if len(name) >= len(prefix) && string(name[:len(prefix)]) == prefix {
			return true
		}
	}
	return false
}

// read takes in the headers of a request. It copies what it keeps, and of a header that comes twice the first counts.
func (h *requestHead) read(headers []header) {
	path := h.path
	*h = requestHead{contentLength: -1, control: h.control[:0]}
	for _, in := range headers {
		var lower [maxHeaderName]byte
		if len(in.name) < 4 || len(in.name) > maxHeaderName {
			continue
		}
		name := lowerCase(lower[:0], in.name)
		switch name[0] {
		case ':':
			switch string(name) {
			case ":path":
				// Streams are reused and most requests have one of few paths: keep the string that is there.
				if path != string(in.value) {
					path = string(in.value)
				}
				h.path = path
			case ":method":
				h.post = string(in.value) == http.MethodPost
			}
		case 'c':
			h.readContent(name, in.value)
		case 't':
			if string(name) == headerSteer && h.steer == "" {
				h.steer = string(in.value)
			}
		case 'x':
			h.readExtension(name, in.value)
		}
	}
}

// valueOf gives a copy of the first value of the header called name, which is in lower case; "" when there is none.
func valueOf(headers []header, name string) string {
	for _, in := range headers {
		if len(in.name) == len(name) && strings.EqualFold(string(in.name), name) {
			return string(in.value)
		}
	}
	return ""
}

func (h *requestHead) readContent(name, value []byte) {
	switch string(name) {
	case headerContentLength:
		if n, err := strconv.ParseInt(string(value), 10, 64); err == nil && n >= 0 && h.contentLength < 0 {
			h.contentLength = n
		}
	case "content-type":
		h.foreign = !mayBeJSON(value)
	case "content-encoding":
		h.encoded = isEncoded(value)
	}
}

// mayBeJSON says whether a body of this content-type is worth a look. Besides those that say so, many clients send JSON
// as text, or as the form that curl takes everything for.
func mayBeJSON(contentType []byte) bool {
	t := bytes.ToLower(contentType)
	return len(t) == 0 || bytes.Contains(t, []byte("json")) || bytes.HasPrefix(t, []byte("text/")) ||
		bytes.HasPrefix(t, []byte("application/x-www-form-urlencoded"))
}

func (h *requestHead) readExtension(name, value []byte) {
	switch {
	case string(name) == headerRequestID:
		if h.requestID == "" {
			h.requestID = string(value)
		}
	case isControl(name):
		known := string(name)
		h.control = append(h.control, known)
		if len(value) > 0 {
			h.ask(known, string(value))
		}
	case string(name) == keyDestination:
		h.control = append(h.control, keyDestination)
	}
}

// isEncoded says whether a content-encoding makes a body unreadable here.
func isEncoded(value []byte) bool {
	return len(value) > 0 && !bytes.EqualFold(value, []byte("identity"))
}

func lowerCase(dst, name []byte) []byte {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// responseHead is what the headers of a response say to the picker.
type responseHead struct {
	status  int
	events  bool // server-sent events
	encoded bool
}

func (h *responseHead) read(headers []header) {
	*h = responseHead{}
	for _, in := range headers {
		var lower [maxHeaderName]byte
		if len(in.name) < 4 || len(in.name) > maxHeaderName {
			continue
		}
		name := lowerCase(lower[:0], in.name)
		switch string(name) {
		case ":status":
			h.status, _ = strconv.Atoi(string(in.value))
		case "content-type":
			const events = "text/event-stream"
			h.events = len(in.value) >= len(events) && bytes.EqualFold(in.value[:len(events)], []byte(events))
		case "content-encoding":
			h.encoded = isEncoded(in.value)
		}
	}
}

// appendAddresses reads addresses "ip:port" between commas. What is none is passed over: it can match no pod.
func appendAddresses(dst []netip.AddrPort, list string) []netip.AddrPort {
	for item := range strings.SplitSeq(list, ",") {
		if a, err := netip.ParseAddrPort(strings.TrimSpace(item)); err == nil {
			dst = append(dst, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
		}
	}
	return dst
}

// steerTo reads the addresses that a conformance test asks for: "ip:port" or "ip", which stands for every port and is
// given as port 0.
func steerTo(dst []netip.AddrPort, list string) []netip.AddrPort {
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		if ip, err := netip.ParseAddr(item); err == nil {
			dst = append(dst, netip.AddrPortFrom(ip.Unmap(), 0))
			continue
		}
		dst = appendAddresses(dst, item)
	}
	return dst
}

// subsetInto makes the subset hint of m the one of a, replacing an earlier message's.
func subsetInto(a *routing.Arrival, m *inbound) {
	a.HasSubset, a.Subset = true, a.Subset[:0]
	for _, list := range m.subset {
		a.Subset = appendAddresses(a.Subset, string(list))
	}
}
