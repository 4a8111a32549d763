// Package settings defines every setting of the picker once: name, environment variable, annotation key, flag, kind,
// unit, default, bounds and one line of documentation all come from one table (table.go).
//
// Five layers lie over each other: default < environment < flag < file < annotation. A change is validated setting by
// setting and then whole, built into a new immutable Values and swapped in atomically; a bad value leaves the last
// good one in force and comes back as a Problem. Reading the settings costs one atomic load.
package settings

import "time"

// Words that settings take, as Values holds them.
const (
	StrategyDefault     = "DEFAULT"      // RoutingStrategy: by load
	StrategyPrefixCache = "PREFIX_CACHE" // RoutingStrategy: by load and cached prefixes

	RuntimeVLLM   = "vllm"    // ModelServerRuntime
	RuntimeSGLang = "sglang"  // ModelServerRuntime
	RuntimeTRTLLM = "trt-llm" // ModelServerRuntime

	ResponseFull = "full" // ResponseProcessing: follow responses to their end
	ResponseNone = "none" // ResponseProcessing: leave the stream after the request

	DecisionsOff  = "off"  // DecisionLog
	DecisionsText = "text" // DecisionLog
	DecisionsJSON = "json" // DecisionLog
)

// Values is one immutable, validated set of all settings. Readers share it and never write to it: take it once per
// request with Store.Current, so that one request sees one set. The comment of each field tells unit and variable;
// bounds and defaults stand in the table.
type Values struct {
	// RoutingStrategy is DEFAULT or PREFIX_CACHE, always in upper case (ROUTING_STRATEGY).
	RoutingStrategy string
	// PrefixCacheHashBlockSize is the length of one hashed block in characters (PREFIX_CACHE_HASH_BLOCK_SIZE).
	PrefixCacheHashBlockSize int
	// PrefixCacheMaxPrefixBlocks is the most blocks hashed and matched for one request
	// (PREFIX_CACHE_MAX_PREFIX_BLOCKS).
	PrefixCacheMaxPrefixBlocks int
	// PrefixCacheLRUCapacity is the most blocks remembered for one pod (PREFIX_CACHE_LRU_CAPACITY).
	PrefixCacheLRUCapacity int

	// Queueing tells whether requests wait here when every server is saturated (QUEUEING).
	Queueing bool
	// TotalQueueCapacity is the most bytes of request bodies that may wait at once (TOTAL_QUEUE_CAPACITY).
	TotalQueueCapacity int64
	// QueueTTL is the longest wait of one request (QUEUE_TTL).
	QueueTTL time.Duration

	// FairnessHeader is the request header, in lower case, that names the flow which shares fairly; empty: those of the
	// protocol (FAIRNESS_HEADER).
	FairnessHeader string

	// ModelServerRuntime is vllm, sglang or trt-llm (MODEL_SERVER_RUNTIME).
	ModelServerRuntime string

	// QueueScoreWeight scales the cost of the work that waits and runs before a request (QUEUE_SCORE_WEIGHT).
	QueueScoreWeight float64
	// KVCacheScoreWeight scales the cost of KV-cache pressure (KV_CACHE_SCORE_WEIGHT).
	KVCacheScoreWeight float64
	// PrefixCacheScoreWeight scales what a cached prefix saves (PREFIX_CACHE_SCORE_WEIGHT).
	PrefixCacheScoreWeight float64
	// SDQueueDepthThreshold is the number of waiting requests from which a pod is saturated
	// (SD_QUEUE_DEPTH_THRESHOLD).
	SDQueueDepthThreshold int
	// LowerPriorityQueueDepthThreshold is the same, with queueing, for requests of a lower priority than others of late,
	// where it is lower (LOWER_PRIORITY_QUEUE_DEPTH_THRESHOLD).
	LowerPriorityQueueDepthThreshold int
	// SDKVCacheUtilThreshold is the share 0..1 of a pod's KV cache in use from which it is saturated
	// (SD_KV_CACHE_UTIL_THRESHOLD).
	SDKVCacheUtilThreshold float64
	// SDMetricsStalenessThreshold is the age from which a report counts as stale, unless three scrape intervals in
	// force are longer (SD_METRICS_STALENESS_THRESHOLD).
	SDMetricsStalenessThreshold time.Duration

	// RefreshMetricsInterval is the time between two scrapes of one pod, before stretching (REFRESH_METRICS_INTERVAL).
	RefreshMetricsInterval time.Duration
	// ScrapeBudget is the share of one core that scraping may take; 0 turns stretching by budget off (SCRAPE_BUDGET).
	ScrapeBudget float64
	// ScrapeTimeout is the longest wait for one metrics page (SCRAPE_TIMEOUT).
	ScrapeTimeout time.Duration

	// DestinationFallbacks is the number of endpoints named after the first one (DESTINATION_FALLBACKS).
	DestinationFallbacks int
	// UsageSample is the share 0..1 of responses whose bodies are looked at for usage where the gateway leaves the
	// choice (USAGE_SAMPLE).
	UsageSample float64
	// ResponseProcessing is full or none (RESPONSE_PROCESSING).
	ResponseProcessing string
	// MaxRequestBody is the largest request body in bytes (MAX_REQUEST_BODY).
	MaxRequestBody int64
	// MaxBuffered is the most bytes of bodies that the whole process holds at once (MAX_BUFFERED).
	MaxBuffered int64
	// ConformanceHeaders tells whether test-epp-endpoint-selection is obeyed (CONFORMANCE_HEADERS).
	ConformanceHeaders bool
	// DecisionLog is off, text or json (DECISION_LOG).
	DecisionLog string

	// What follows belongs to the process: it is read once, at start.

	// DebugEndpoints tells whether /debug is served on the admin port (DEBUG_ENDPOINTS).
	DebugEndpoints bool
	// GRPCPort serves ext_proc, and EDS and health beside it; 0 takes any free port (GRPC_PORT).
	GRPCPort int
	// GRPCHealthPort serves gRPC health in plaintext; 0 takes any free port (GRPC_HEALTH_PORT).
	GRPCHealthPort int
	// MetricsPort serves the admin HTTP pages; 0 takes any free port (METRICS_PORT).
	MetricsPort int
	// BindAddress is the IP address listened on; empty means every interface (BIND_ADDRESS).
	BindAddress string
	// SecureServing tells whether the ext_proc port speaks TLS (SECURE_SERVING).
	SecureServing bool
	// CertPath is the folder with tls.crt and tls.key; empty means a self-signed certificate (CERT_PATH).
	CertPath string
	// EDS is true, false or auto: auto serves the endpoints to Envoy when they come from a file (EDS). Read it with
	// ServeEDS.
	EDS string
	// Endpoints is the path of the endpoints file; empty means discovery by pool name (ENDPOINTS).
	Endpoints string
	// PoolName is the name of the InferencePool served, and the label of the pool's metrics (POOL_NAME).
	PoolName string
	// PoolNamespace is the namespace of that InferencePool (POOL_NAMESPACE).
	PoolNamespace string
	// LogLevel is debug, info, warn or error (LOG_LEVEL).
	LogLevel string
	// LogFormat is text or json (LOG_FORMAT).
	LogFormat string
	// ShutdownGrace is how long streams under way may finish after a signal (SHUTDOWN_GRACE).
	ShutdownGrace time.Duration
}

// ServeEDS reports whether the endpoints are served to Envoy as EDS: as EDS says, and with auto when they come from a
// file.
func (v *Values) ServeEDS() bool {
	if v.EDS == "auto" {
		return v.Endpoints != ""
	}
	return v.EDS == "true"
}

// Default returns the settings of a picker that nobody configured.
func Default() *Values {
	v := new(Values)
	for i := range table {
		// The defaults are a part of the table, and a test parses them all.
		_ = table[i].set(v, table[i].fallback)
	}
	return v
}
