// Package discovery fills the pool with the endpoints that a file lists, and tells the priorities that the file gives.
//
// It promises that a file which can't be read or understood changes nothing: the last good one stays in force, and file,
// line and reason are told. An edited file is in force within a tenth of a second however it was written (in place, by
// rename, by a ConfigMap's symbolic links), and after five seconds where the file system tells nothing. Host names are
// resolved here, anew every five seconds: only ip:port leaves this room.
package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

const (
	settle  = 30 * time.Millisecond // without events, until a file that is being written is read
	patient = 10                    // times settle, after which it is read although events go on
	again   = 5 * time.Second       // between two looks at the file, and at host names
	soon    = time.Second           // between two looks at host names while no endpoint is known
	maxFile = 16 << 20              // bytes
)

// Options are what a File needs. All but Pool may be left out.
type Options struct {
	Pool     *pool.Pool
	Logger   *slog.Logger
	Resolver Resolver         // nil: the system's
	Now      func() time.Time // nil: time.Now
	Again    time.Duration    // between two looks at the file and at host names, 0: 5 s
	// Priorities is given the file's priorities when they come in force and whenever they change, before the endpoints of
	// the same version; nil when the file has no more of them. It isn't called as long as there are none.
	Priorities func(*Priorities)
	Reloaded   func(err error) // told of each version of the file: nil when it is in force, else what is wrong with it
}

// Status tells how things stand.
type Status struct {
	File      string    `json:"file"`
	Endpoints int       `json:"endpoints"`         // in the pool
	Loaded    time.Time `json:"loaded"`            // when the file in force was read
	Problem   error     `json:"-"`                 // why the file as it is now is not in force; nil when it is
	Failing   []string  `json:"failing,omitempty"` // host names whose last look-up failed
}

// File keeps a pool as an endpoints file says. Run may be called once; the other methods are safe for concurrent use.
type File struct {
	path       string
	pool       *pool.Pool
	logger     *slog.Logger
	now        func() time.Time
	again      time.Duration
	priorities func(*Priorities)
	reloaded   func(error)

	// Run owns these.
	hosts   *hosts
	doc     document
	text    []byte // as last read, good or not; nil: couldn't be read
	set     []pool.Endpoint
	filled  bool              // the pool was set
	watcher *fsnotify.Watcher // nil when the system has none

	synced chan struct{}
	mu     sync.Mutex
	status Status
}

// NewFile gives what keeps o.Pool as the file at path says.
func NewFile(path string, o Options) *File {
	f := &File{
		path: path, pool: o.Pool, logger: o.Logger, now: o.Now, again: o.Again,
		priorities: o.Priorities, reloaded: o.Reloaded,
		synced: make(chan struct{}), status: Status{File: path},
	}
	if f.logger == nil {
		f.logger = slog.New(slog.DiscardHandler)
	}
	if f.now == nil {
		f.now = time.Now
	}
	if f.again == 0 {
		f.again = again
	}
	if f.priorities == nil {
		f.priorities = func(*Priorities) {}
	}
	if f.reloaded == nil {
		f.reloaded = func(error) {}
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	f.hosts = newHosts(o.Resolver, f.logger)
	return f
}

// Synced is closed as soon as the pool is as the file says. Until then an empty pool means nothing.
func (f *File) Synced() <-chan struct{} { return f.synced }

// Status tells how things stand now.
func (f *File) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// Run keeps the pool as the file says until ctx ends, and returns nil then. It returns an error at once when the file is
// bad from the start.
func (f *File) Run(ctx context.Context) error {
	f.watcher = f.watch()
	if f.watcher != nil {
		defer f.watcher.Close() //nolint:errcheck // nothing is lost
	}
	f.rewatch()
	if err := f.reload(ctx); err != nil {
		return err
	}
	f.follow(ctx)
	return nil
}

// follow looks at the file when something happened to it, and at file and host names from time to time.
func (f *File) follow(ctx context.Context) {
	look, names := time.NewTicker(f.again), time.NewTimer(f.untilNames())
	defer look.Stop()
	defer names.Stop()
	written := time.NewTimer(0)
	<-written.C
	defer written.Stop()
	var since time.Time // of the first event after the last look
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-f.events():
			if !f.concerns(event.Name) {
				continue
			}
			if since.IsZero() {
				since = time.Now()
			}
			written.Reset(min(settle, max(0, patient*settle-time.Since(since))))
		case <-f.watchErrors(): //nolint:errcheck // whatever went wrong, reading again mends it
			written.Reset(settle)
		case <-written.C:
			since = time.Time{}
			f.rewatch()
			f.reload(ctx) //nolint:errcheck // told inside; the last good file stays
			names.Reset(f.untilNames())
		case <-look.C:
			f.rewatch()
			f.reload(ctx) //nolint:errcheck // told inside; the last good file stays
		case <-names.C:
			f.resolve(ctx)
			names.Reset(f.untilNames())
		}
	}
}

func (f *File) untilNames() time.Duration {
	if len(f.set) == 0 {
		return min(soon, f.again)
	}
	return f.again
}

// reload reads the file, and puts it in force when it has changed and is good.
func (f *File) reload(ctx context.Context) error {
	text, err := readFile(f.path)
	if err != nil {
		f.text = nil
		return f.refuse(fmt.Errorf("endpoints file: %w", err))
	}
	if f.text != nil && bytes.Equal(text, f.text) {
		return f.Status().Problem
	}
	f.text = text
	doc, err := parse(f.path, text)
	if err != nil {
		return f.refuse(err)
	}
	f.accept(ctx, doc)
	return nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: expected at most %d bytes, got more", path, maxFile)
	}
	return text, err
}

// refuse tells what is wrong with the file, once for each thing that is.
func (f *File) refuse(err error) error {
	f.mu.Lock()
	told := f.status.Problem != nil && f.status.Problem.Error() == err.Error()
	f.status.Problem = err
	f.mu.Unlock()
	if !told {
		f.reloaded(err)
		f.logger.Error("endpoints file can't be used; the last good one stays in force", "problem", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return err
}

func (f *File) accept(ctx context.Context, doc document) {
	if !doc.priorities.equal(f.doc.priorities) {
		f.priorities(doc.priorities)
	}
	f.doc = doc
	f.mu.Lock()
	f.status.Problem, f.status.Loaded = nil, f.now()
	f.mu.Unlock()
	if len(doc.endpoints) == 0 {
		f.logger.Warn("endpoints file lists no endpoint: every request will be refused", "file", f.path)
	}
	if f.hosts.unknown(doc.endpoints) {
		f.hosts.refresh(ctx, doc.endpoints)
	}
	f.publish(ctx)
	f.reloaded(nil)
	models, objectives := doc.priorities.names()
	f.logger.Info("endpoints file is in force", "file", f.path, "endpoints", len(f.set), "models", models, "objectives", objectives)
}

// resolve looks up the host names again.
func (f *File) resolve(ctx context.Context) {
	f.hosts.refresh(ctx, f.doc.endpoints)
	f.publish(ctx)
}

// publish hands the endpoints to the pool. A list of names of which none can be resolved is no empty list: the pool stays
// as it is, and if it was never set, nothing is synced yet.
func (f *File) publish(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	f.hosts.forget(f.doc.endpoints)
	endpoints := f.hosts.endpoints(f.doc.endpoints)
	if known := len(endpoints) > 0 || len(f.doc.endpoints) == 0; known {
		f.fill(endpoints)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Endpoints, f.status.Failing = len(f.set), f.hosts.failures()
}

func (f *File) fill(endpoints []pool.Endpoint) {
	if f.filled && reflect.DeepEqual(endpoints, f.set) {
		return
	}
	f.pool.Set(f.now(), endpoints)
	f.set = endpoints
	if !f.filled {
		f.filled = true
		close(f.synced)
	}
}

func (f *File) watch() *fsnotify.Watcher {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		f.logger.Warn("changes of the endpoints file are seen late: the system gives no notice of them", "every", f.again, "error", err)
		return nil
	}
	return watcher
}

// rewatch watches the directory of the file, and that of what it links to. Directories, since a file that is replaced by
// rename takes its watch away with it.
func (f *File) rewatch() {
	if f.watcher == nil {
		return
	}
	wanted := map[string]bool{filepath.Dir(f.path): true}
	if target, err := filepath.EvalSymlinks(f.path); err == nil {
		wanted[filepath.Dir(target)] = true
	}
	for dir := range wanted {
		if err := f.watcher.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.logger.Debug("directory of the endpoints file can't be watched", "directory", dir, "error", err)
		}
	}
	for _, dir := range f.watcher.WatchList() {
		if !wanted[dir] {
			f.watcher.Remove(dir) //nolint:errcheck // gone already
		}
	}
}

func (f *File) events() <-chan fsnotify.Event {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Events
}

func (f *File) watchErrors() <-chan error {
	if f.watcher == nil {
		return nil
	}
	return f.watcher.Errors
}

// concerns says whether what happened to name may have changed the file: it is the file, what it links to, or one of the
// links that a ConfigMap volume swaps ("..data").
func (f *File) concerns(name string) bool {
	base := filepath.Base(name)
	if base == filepath.Base(f.path) || strings.HasPrefix(base, "..") {
		return true
	}
	target, err := filepath.EvalSymlinks(f.path)
	return err == nil && base == filepath.Base(target)
}
