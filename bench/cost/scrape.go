package cost

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

const (
	scrapedPods    = 256
	scrapesPerSec  = 20
	scrapeBudget   = 0.6  // cores
	defaultScrapes = 0.25 // cores: SCRAPE_BUDGET's default, which is a promise
	scrapeWarmUp   = 3 * time.Second
	scrapeTurn     = 4 * time.Second
)

// scrape measures a picker that reads the pages of many pods and has no requests.
func (b *bench) scrape(ctx context.Context, out *Section) error {
	out.Title = "CPU of the picker that reads metrics pages and has no requests"
	out.Conditions = []string{
		fmt.Sprintf("%d pods, each on a port of its own, with a page of %d KB as vLLM has; pages counted at the pods", scrapedPods, podPage>>10),
	}
	return onStack(func(s *stack.Stack) error {
		pods, err := b.startChild(ctx, s, "pods", "pods", fmt.Sprint(scrapedPods), fmt.Sprint(podPage))
		if err != nil {
			return err
		}
		const name = "SCRAPE_BUDGET=0, every 50 ms: "
		cores, pages, err := b.scraping(ctx, s, pods, "unstretched", "REFRESH_METRICS_INTERVAL=50ms", "SCRAPE_BUDGET=0")
		if err != nil {
			return err
		}
		used := Figure{Case: name + "CPU", Unit: "cores", Value: spread(cores)}
		used.limit(scrapeBudget)
		read := Figure{Case: name + "pages read", Unit: "pages/s", Value: spread(pages)}
		read.Note = fmt.Sprintf("of %d", scrapedPods*scrapesPerSec)
		read.atLeast(0.95 * scrapedPods * scrapesPerSec)
		each := Figure{Case: name + "one page", Unit: "CPU-µs/page", Value: spread(perPage(cores, pages))}

		cores, pages, err = b.scraping(ctx, s, pods, "default")
		if err != nil {
			return err
		}
		bounded := Figure{Case: "by default (0.25 core, every 200 ms): CPU", Unit: "cores", Value: spread(cores)}
		bounded.limit(defaultScrapes)
		reached := Figure{Case: "by default (0.25 core, every 200 ms): interval reached", Unit: "ms", Value: spread(intervals(pages))}
		out.Figures = []Figure{used, read, each, bounded, reached}
		return nil
	})
}

func perPage(cores, pages []float64) []float64 {
	each := ratios(cores, pages)
	for i := range each {
		each[i] *= 1e6
	}
	return each
}

func intervals(pages []float64) []float64 {
	ms := make([]float64, len(pages))
	for i, p := range pages {
		ms[i] = scrapedPods * 1000 / p
	}
	return ms
}

// scraping runs a picker over the pods and gives, for each round, the cores that it took and the pages that it read in
// a second.
func (b *bench) scraping(ctx context.Context, s *stack.Stack, pods *child, name string, env ...string) (cores, pages []float64, err error) {
	p, err := b.startPicker(ctx, s, name, pods.addrs, env...)
	if err != nil {
		return nil, nil, err
	}
	defer p.Stop(5 * time.Second) //nolint:errcheck // the stack ends it if this didn't
	if err := pause(ctx, scrapeWarmUp); err != nil {
		return nil, nil, err
	}
	for round := range b.Rounds {
		before, err := served(ctx, pods)
		if err != nil {
			return nil, nil, err
		}
		start := time.Now()
		used, err := spent(func() error { return pause(ctx, scrapeTurn) }, p.Process)
		if err != nil {
			return nil, nil, err
		}
		took := time.Since(start).Seconds()
		after, err := served(ctx, pods)
		if err != nil {
			return nil, nil, err
		}
		if after == before {
			return nil, nil, fmt.Errorf("no page was read in %.1f s\n%s", took, p.Tail(5))
		}
		cores = append(cores, used[0].Seconds()/took)
		pages = append(pages, float64(after-before)/took)
		b.progress("scrape %s round %d: %.3f cores, %.0f pages/s", name, round+1, cores[round], pages[round])
	}
	return cores, pages, nil
}

// served asks the pods how many pages they have written.
func served(ctx context.Context, pods *child) (int64, error) {
	body, err := get(ctx, "http://"+pods.addrs[0].String()+servedPath)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(body), 10, 64)
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it has been read
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %s", url, resp.Status)
	}
	return body, err
}

// pause waits, or returns early when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
