package overload

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/trace"
)

// Priority ranks requests; the higher one goes first.
type Priority int

// The priorities that load is made of.
const (
	Sheddable Priority = iota - 1
	Standard
	Critical
)

// Priorities lists them, the highest first.
func Priorities() [3]Priority { return [...]Priority{Critical, Standard, Sheddable} }

// String is the priority's name in reports.
func (p Priority) String() string { return [...]string{"Sheddable", "Standard", "Critical"}[p+1] }

// Objective is the name that a request carries in x-gateway-inference-objective.
func (p Priority) Objective() string { return [...]string{"sheddable", "standard", "critical"}[p+1] }

// place is the priority's position in Priorities.
func (p Priority) place() int { return int(Critical - p) }

// Shape is what requests look like. A request's priority has nothing to do with its length, so that shares of requests
// are shares of tokens.
type Shape struct {
	Prompt        Lengths `json:"prompt_tokens"`
	Answer        Lengths `json:"answer_tokens"`
	CriticalShare float64 `json:"critical_share"` // of 1
	StandardShare float64 `json:"standard_share"` // of 1; what remains is Sheddable
}

// Lengths is a log-normal distribution of tokens, cut at both ends.
type Lengths struct {
	Median float64 `json:"median"`
	Sigma  float64 `json:"sigma"` // of the logarithm
	Min    int     `json:"min"`
	Max    int     `json:"max"`
}

// DefaultShape is chat-like: prompts of 620 tokens in the mean and a long tail, answers of 60.
func DefaultShape() Shape {
	return Shape{
		Prompt:        Lengths{Median: 450, Sigma: 0.8, Min: 16, Max: 4096},
		Answer:        Lengths{Median: 50, Sigma: 0.6, Min: 4, Max: 256},
		CriticalShare: 0.2,
		StandardShare: 0.4,
	}
}

func (l Lengths) draw(rng *rand.Rand) int {
	n := math.Round(l.Median * math.Exp(l.Sigma*rng.NormFloat64()))
	return int(min(max(n, float64(l.Min)), float64(l.Max)))
}

func (l Lengths) String() string {
	return fmt.Sprintf("log-normal, median %g, sigma %g, within %d to %d", l.Median, l.Sigma, l.Min, l.Max)
}

func (s Shape) validate() error {
	if s.CriticalShare < 0 || s.StandardShare < 0 || s.CriticalShare+s.StandardShare > 1 {
		return fmt.Errorf("shares of Critical and Standard: expected at least 0 each and at most 1 together, got %g and %g", s.CriticalShare, s.StandardShare)
	}
	return nil
}

// Request is one chat request of the load.
type Request struct {
	At       time.Duration // since the load began
	Priority Priority
	Prompt   int    // tokens of its message
	Answer   int    // tokens
	text     uint64 // seed of its words, so that no two prompts share a beginning
}

// draws makes requests without end, the same ones for the same seed.
type draws struct {
	shape Shape
	rng   *rand.Rand
	text  uint64
}

func newDraws(shape Shape, seed uint64) *draws {
	return &draws{shape: shape, rng: rand.New(rand.NewPCG(seed, 0)), text: seed << 32}
}

func (d *draws) next() Request {
	d.text++
	r := Request{Prompt: d.shape.Prompt.draw(d.rng), Answer: d.shape.Answer.draw(d.rng), text: d.text}
	switch u := d.rng.Float64(); {
	case u < d.shape.CriticalShare:
		r.Priority = Critical
	case u < d.shape.CriticalShare+d.shape.StandardShare:
		r.Priority = Standard
	default:
		r.Priority = Sheddable
	}
	return r
}

// arrivals is a Poisson stream of requests, at so many a second for so long.
func arrivals(shape Shape, seed uint64, perSecond float64, length time.Duration) []Request {
	d := newDraws(shape, seed)
	var all []Request
	for at := time.Duration(0); ; {
		at += time.Duration(d.rng.ExpFloat64() / perSecond * float64(time.Second))
		if at >= length {
			return all
		}
		r := d.next()
		r.At = at
		all = append(all, r)
	}
}

// appendBody appends the JSON of a streamed chat that gets exactly as many tokens as it asks for.
func (r *Request) appendBody(dst []byte) []byte {
	dst = append(dst, `{"model":"sim","messages":[{"role":"user","content":"`...)
	dst = trace.AppendWords(dst, r.text, r.Prompt)
	dst = append(dst, `"}],"stream":true,"ignore_eos":true,"max_tokens":`...)
	dst = strconv.AppendInt(dst, int64(r.Answer), 10)
	return append(dst, '}')
}
