package main

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/routing"
	"github.com/pilotfish-epp/pilotfish/pkg/scheduling"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
	"github.com/pilotfish-epp/pilotfish/pkg/telemetry"
)

// admin is the pages of the metrics port.
type admin struct {
	settings *settings.Store
	metrics  prometheus.Gatherer
	pool     *pool.Pool
	router   *routing.Router
	status   func() (word, problem string) // see health
	now      func() time.Time
}

func (a *admin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", a.healthz)
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.HandleFunc("GET /settings", a.settingsPage)
	mux.Handle("GET /metrics", promhttp.HandlerFor(telemetry.BothSpellings(a.metrics), promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /{$}", a.index)
	if a.settings.Current().DebugEndpoints {
		mux.HandleFunc("GET /debug/pool", a.debugPool)
		mux.HandleFunc("GET /debug/index", a.debugIndex)
		mux.HandleFunc("GET /debug/queue", a.debugQueue)
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func (a *admin) index(w http.ResponseWriter, _ *http.Request) {
	text := "Pilotfish endpoint picker\n\n/healthz\n/readyz\n/settings  (?format=table or markdown)\n/metrics\n"
	if a.settings.Current().DebugEndpoints {
		text += "/debug/pool\n/debug/index\n/debug/queue\n/debug/pprof/\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(text)) // the client has gone, if it fails
}

// health is what /healthz and /readyz say.
type health struct {
	Status  string `json:"status"`            // starting until the endpoints are known, ok, stopping once told to end
	Pods    int    `json:"pods"`              // in the pool
	Usable  int    `json:"usable"`            // of them, not set aside
	Problem string `json:"problem,omitempty"` // why the endpoints file as it is now is not in force
}

func (a *admin) health() health {
	var h health
	h.Status, h.Problem = a.status()
	for _, p := range a.pods() {
		h.Pods++
		if p.usable() {
			h.Usable++
		}
	}
	return h
}

// healthz tells that the process is alive, whatever it is able to do.
func (a *admin) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.health())
}

// readyz tells whether requests should come here.
func (a *admin) readyz(w http.ResponseWriter, _ *http.Request) {
	h, code := a.health(), http.StatusOK
	if h.Status != "ok" {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, h)
}

func (a *admin) settingsPage(w http.ResponseWriter, r *http.Request) {
	form := r.URL.Query().Get("format")
	switch form {
	case "", "json":
		w.Header().Set("Content-Type", "application/json")
		form = "json"
	case "table", "markdown":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	default:
		http.Error(w, `format: expected json, table or markdown`, http.StatusBadRequest)
		return
	}
	_ = writeSettings(w, form, pageOf(a.settings)) // the client has gone, if it fails
}

// podView is one pod as /debug/pool shows it.
type podView struct {
	Name            string            `json:"name"`
	Address         string            `json:"address"`
	ID              uint32            `json:"id"`
	Runtime         string            `json:"runtime"`
	Labels          map[string]string `json:"labels,omitempty"`
	Health          string            `json:"health"`
	InFlight        int               `json:"inFlight"`
	InFlightTokens  int               `json:"inFlightTokens"`
	PrefillQueueMS  float64           `json:"prefillQueueMs"`
	RequestFailures int               `json:"requestFailures,omitempty"`
	PageFailures    int               `json:"pageFailures,omitempty"`
	PageError       string            `json:"pageError,omitempty"`
	Report          *reportView       `json:"report,omitempty"`
}

// reportView is a pod's last report.
type reportView struct {
	AgeMS       float64  `json:"ageMs"`
	Fresh       bool     `json:"fresh"`
	Waiting     int      `json:"waiting"`
	Running     int      `json:"running"`
	KVUsage     float64  `json:"kvUsage"`
	BlockSize   int      `json:"blockSize,omitempty"`
	KVTokens    int      `json:"kvTokens,omitempty"`
	MaxAdapters int      `json:"maxAdapters,omitempty"`
	Adapters    []string `json:"adapters,omitempty"`
	Missing     []string `json:"missing,omitempty"`
	IntervalMS  float64  `json:"intervalMs,omitempty"`
	Places      int      `json:"places"`              // requests that are known to run there at once
	FreePlaces  int      `json:"freePlaces"`          // of them, taken by nobody
	FullAgoMS   *float64 `json:"fullAgoMs,omitempty"` // since requests last had to wait there; never, when it is missing
}

func (p *podView) usable() bool { return p.Health != "set aside" }

// pods are the pods with their load, as they are now.
func (a *admin) pods() []podView {
	now, v, snapshot := a.now(), a.settings.Current(), a.pool.Snapshot()
	loads := a.pool.Loads(snapshot, nil)
	out := make([]podView, len(snapshot.Pods))
	for i, pod := range snapshot.Pods {
		l := &loads[i]
		out[i] = podView{
			Name: pod.Name, Address: pod.Authority, ID: pod.ID, Runtime: pod.Runtime, Labels: pod.Labels,
			Health: scheduling.Health(now, l), InFlight: l.InFlight, InFlightTokens: l.Tokens,
			PrefillQueueMS: milliseconds(l.PrefillQueue(pool.At(now))), RequestFailures: l.RequestFailures, PageFailures: l.PageFailures,
		}
		if pod.Runtime == "" {
			out[i].Runtime = v.ModelServerRuntime
		}
		if l.PageError != nil {
			out[i].PageError = l.PageError.Error()
		}
		if r := &l.Report; l.HasReport {
			out[i].Report = &reportView{
				AgeMS: milliseconds(pool.At(now).Since(r.Taken)), Fresh: l.Fresh(pool.At(now), v.SDMetricsStalenessThreshold),
				Waiting: r.Waiting, Running: r.Running, KVUsage: r.KVUsage, BlockSize: r.BlockSize, KVTokens: r.KVTokens,
				MaxAdapters: r.MaxAdapters, Adapters: r.Adapters, Missing: r.Missing, IntervalMS: milliseconds(r.Interval),
				Places: l.Places, FreePlaces: l.Free(),
			}
			if l.FullAt != 0 {
				ago := milliseconds(pool.At(now).Since(l.FullAt))
				out[i].Report.FullAgoMS = &ago
			}
		}
	}
	return out
}

func (a *admin) debugPool(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Version uint64    `json:"version"`
		Pods    []podView `json:"pods"`
	}{a.pool.Snapshot().Version, a.pods()})
}

func (a *admin) debugIndex(w http.ResponseWriter, _ *http.Request) {
	type podBlocks struct {
		Name   string `json:"name"`
		Blocks int    `json:"blocks"`
	}
	v, stats := a.settings.Current(), a.router.Index().Stats()
	view := struct {
		Blocks    int         `json:"blocks"`
		Distinct  int         `json:"distinct"`
		Bytes     int64       `json:"bytes"`
		Evictions uint64      `json:"evictions"`
		BlockSize int         `json:"blockSizeCharacters"`
		Capacity  int         `json:"capacityPerPod"`
		Pods      []podBlocks `json:"pods"`
	}{stats.Blocks, stats.Distinct, stats.Bytes, stats.Evictions, v.PrefixCacheHashBlockSize, v.PrefixCacheLRUCapacity, []podBlocks{}}
	for _, pod := range a.pool.Snapshot().Pods {
		view.Pods = append(view.Pods, podBlocks{pod.Name, a.router.Index().PodBlocks(pod.ID)})
	}
	writeJSON(w, http.StatusOK, view)
}

// debugQueue shows what waits, by priority.
func (a *admin) debugQueue(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, telemetry.ViewQueue(queueLevels(a.router.Waiting(), a.now())))
}

// podLoads are the pods as the metrics page shows them.
func (a *admin) podLoads() []telemetry.PodLoad {
	views := a.pods()
	out := make([]telemetry.PodLoad, len(views))
	for i := range views {
		p := &views[i]
		out[i] = telemetry.PodLoad{Name: p.Name, Address: p.Address, Ready: p.usable(), InFlight: p.InFlight}
		if r := p.Report; r != nil {
			out[i].Reported, out[i].Waiting, out[i].Running, out[i].KVUsage = true, r.Waiting, r.Running, r.KVUsage
			out[i].ReportAge = time.Duration(r.AgeMS * float64(time.Millisecond))
		}
	}
	return out
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false) // nobody reads it as HTML
	_ = encoder.Encode(v)        // the client has gone, if it fails
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
