package metrics

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// dialer opens a connection to a pod.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// client asks one pod for its page over one kept connection. It is for one page at a time.
type client struct {
	transport *http.Transport
	request   *http.Request
}

func newClient(dial dialer, c *clock) *client {
	return &client{
		transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return metered(conn, c), nil
			},
			DisableCompression:     true, // compressing costs the model server more than sending
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			WriteBufferSize:        1 << 10,
		},
		request: &http.Request{
			Method: http.MethodGet,
			Header: http.Header{"Accept": {"text/plain;version=0.0.4"}, "User-Agent": {"pilotfish"}},
		},
	}
}

// get asks host (ip:port) for the page at path. The caller closes the body.
func (c *client) get(ctx context.Context, host, path string) (*http.Response, error) {
	if c.request.URL == nil || c.request.URL.Host != host || c.request.URL.Path != path {
		c.request.URL = &url.URL{Scheme: "http", Host: host, Path: path}
	}
	resp, err := c.transport.RoundTrip(c.request.WithContext(ctx))
	if err != nil {
		return nil, failure(classify(err), err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close() //nolint:errcheck // nothing was read
		return nil, failure(Status, fmt.Errorf("expected 200 OK, got %s", resp.Status))
	}
	return resp, nil
}

func (c *client) close() { c.transport.CloseIdleConnections() }
