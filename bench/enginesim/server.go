package enginesim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxBody bounds a request body: more than any prompt that fits an engine.
const maxBody = 256 << 20

// Server is a simulated model server: an Engine, the HTTP APIs in front of it and a goroutine that drives it by real
// time. All methods are safe for concurrent use.
type Server struct {
	opt     Options
	started time.Time

	mu       sync.Mutex // engine, clock, adapters, observations
	engine   *Engine
	clock    clock
	adapters []string
	seen     observations

	faults     atomic.Pointer[faultState]
	frozenPage atomic.Pointer[[]byte]
	serial     atomic.Uint64
	requests   atomic.Uint64 // inference requests that came, also refused ones
	inFlight   atomic.Int64

	kick   chan struct{}
	stop   chan struct{}
	done   sync.WaitGroup
	close  sync.Once
	server *http.Server
	aside  *http.Server // metrics on their own port
	addr   string
	metric string
}

// New checks the options and builds a server; nothing listens before Start or Serve.
func New(opt Options) (*Server, error) {
	opt = opt.withDefaults()
	engine, err := NewEngine(Config{Profile: opt.Profile, MaxAdapters: opt.MaxAdapters, AdapterLoad: opt.AdapterLoad})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", opt.Name, err)
	}
	if err := opt.validate(engine.Capacity()); err != nil {
		return nil, err
	}
	s := &Server{
		opt: opt, engine: engine, started: time.Now(), clock: newClock(opt.Speed),
		adapters: slices.Clone(opt.Adapters),
		seen:     newObservations(),
		kick:     make(chan struct{}, 1),
		stop:     make(chan struct{}),
	}
	s.faults.Store(&faultState{replaced: make(chan struct{})})
	s.server = &http.Server{Handler: s.handler(), ReadHeaderTimeout: time.Minute}
	if err := s.SetFaults(opt.Faults); err != nil {
		return nil, err
	}
	return s, nil
}

// Start listens on an address ("127.0.0.1:0" for any free port) and serves until Close.
func (s *Server) Start(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w", s.opt.Name, err)
	}
	return s.Serve(l)
}

// Serve serves on a listener until Close, which closes it too. It returns at once.
func (s *Server) Serve(l net.Listener) error {
	s.addr, s.metric = l.Addr().String(), l.Addr().String()
	if s.opt.MetricsAddress != "" {
		aside, err := net.Listen("tcp", s.opt.MetricsAddress)
		if err != nil {
			_ = l.Close()
			return fmt.Errorf("%s: metrics: %w", s.opt.Name, err)
		}
		s.metric = aside.Addr().String()
		mux := http.NewServeMux()
		mux.HandleFunc("/metrics", s.serveMetrics)
		s.aside = &http.Server{Handler: s.gate(mux), ReadHeaderTimeout: time.Minute}
		s.done.Go(func() { _ = s.aside.Serve(aside) }) // ends with Close
	}
	s.done.Go(s.drive)
	s.done.Go(func() { _ = s.server.Serve(l) }) // ends with Close
	return nil
}

// Addr is the address of the API, known after Start.
func (s *Server) Addr() string { return s.addr }

// MetricsAddr is the address of the metrics page, known after Start.
func (s *Server) MetricsAddr() string { return s.metric }

// Name is the name that responses carry in x-served-by.
func (s *Server) Name() string { return s.opt.Name }

// Close cuts all connections, as a killed process would, and waits for its goroutines. It may be called again.
func (s *Server) Close() error {
	var err error
	s.close.Do(func() {
		close(s.stop)
		err = s.server.Close()
		if s.aside != nil {
			err = errors.Join(err, s.aside.Close())
		}
		s.done.Wait()
	})
	return err
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/chat/completions", s.infer(s.parseChat))
	mux.HandleFunc("/v1/completions", s.infer(s.parseCompletion))
	mux.HandleFunc("/v1/responses", s.infer(s.parseResponses))
	mux.HandleFunc("/v1/messages", s.infer(s.parseMessages))
	mux.HandleFunc("/v1/load_lora_adapter", s.loadAdapter)
	mux.HandleFunc("/v1/unload_lora_adapter", s.unloadAdapter)
	mux.HandleFunc("/v1/models", s.serveModels)
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/load", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, object{"server_load": s.inFlight.Load()})
	})
	if s.opt.MetricsAddress == "" {
		mux.HandleFunc("/metrics", s.serveMetrics)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &apiError{Status: http.StatusNotFound, Type: "NotFoundError", Message: "no such path: " + r.URL.Path})
	})
	return s.gate(mux)
}

// gate names the server on every response and lets the faults that concern all paths act.
func (s *Server) gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Served-By", s.opt.Name)
		switch r.URL.Path {
		case "/faults":
			s.serveFaults(w, r)
			return
		case "/stats":
			writeJSON(w, http.StatusOK, s.Stats())
			return
		}
		if !s.await(r.Context(), frozen) {
			return
		}
		f := s.Faults()
		switch {
		case f.Refuse == "before":
			reset(w)
		case f.Loading:
			writeError(w, &apiError{Status: http.StatusServiceUnavailable, Type: "ServiceUnavailableError", Message: "the model is being loaded"})
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// dialect writes one API's answers.
type dialect interface {
	whole(c *call) any               // the answer in one piece
	begin(e *events, c *call)        // before the first token
	token(e *events, c *call, i int) // the i-th token
	end(e *events, c *call)          // after the last one
}

// infer serves an inference path: read, parse, generate, answer.
func (s *Server) infer(parse func(body []byte) (*call, dialect, *apiError)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			writeError(w, methodNotAllowed(r))
			return
		}
		s.requests.Add(1)
		s.inFlight.Add(1)
		defer s.inFlight.Add(-1)
		body, failed := s.readBody(w, r)
		if failed != nil {
			writeError(w, failed)
			return
		}
		if s.Faults().Refuse != "" {
			reset(w)
			return
		}
		c, api, failed := parse(body)
		if failed != nil {
			writeError(w, failed)
			return
		}
		s.answer(w, r, c, api)
	}
}

func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *apiError) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &apiError{Status: http.StatusRequestEntityTooLarge, Type: "BadRequestError", Message: fmt.Sprintf("the body is larger than %d bytes", large.Limit)}
	case err != nil:
		return nil, badRequest("", "the body ended early: "+err.Error())
	}
	return body, nil
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, c *call, api dialect) {
	if !s.await(r.Context(), hanging) {
		return
	}
	if failed := s.submit(c); failed != nil {
		writeError(w, failed)
		return
	}
	defer s.abandon(c)
	if c.stream {
		s.answerStreamed(w, r, c, api)
	} else {
		s.answerWhole(w, r, c, api)
	}
}

func (s *Server) answerStreamed(w http.ResponseWriter, r *http.Request, c *call, api dialect) {
	e := newEvents(w, s.Faults().DieAfterChunks)
	for sent := 0; sent < c.tokens(); {
		made, alive := s.awaitTokens(r.Context(), c, sent)
		if !alive {
			return
		}
		if sent == 0 {
			api.begin(e, c)
		}
		for ; sent < made; sent++ {
			api.token(e, c, sent)
		}
		if e.dead {
			return
		}
		if sent < c.tokens() {
			e.flush()
		}
	}
	api.end(e, c)
	e.flush()
}

func (s *Server) answerWhole(w http.ResponseWriter, r *http.Request, c *call, api dialect) {
	if _, alive := s.awaitTokens(r.Context(), c, c.tokens()-1); !alive {
		return
	}
	s.addLoadHeader(w, r)
	answer := api.whole(c)
	if s.Faults().DieAfterChunks == 0 {
		writeJSON(w, http.StatusOK, answer)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "1000000") // more than comes
	_, _ = io.WriteString(w, `{"id":`)
	_ = http.NewResponseController(w).Flush()
	reset(w)
}

// awaitTokens waits until more than sent tokens may be sent, and returns how many; false when the client has left.
func (s *Server) awaitTokens(ctx context.Context, c *call, sent int) (made int, alive bool) {
	for {
		if made := int(c.made.Load()); made > sent {
			return made, s.await(ctx, frozen)
		}
		select {
		case <-ctx.Done():
			return 0, false
		case <-c.wake:
		}
	}
}

func (s *Server) unixNow() int64 { return time.Now().Unix() }
