package main

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/redsession/redsession/bench"
)

// sets is how many sets of names all figures are means of.
const sets = 16

// result is what one ring does with n nodes, and with one more.
type result struct {
	loads            []float64 // by the mean, fullest first
	moved, unchanged float64   // parts of all keys
}

type series struct {
	name, colour string
	even         bool           // all loads are the same
	results      map[int]result // by number of nodes
}

var sizes = []int{8, 32}

func measure() ([]series, error) {
	keys := bench.SectorKeys()
	list := []series{
		{name: "redsession", colour: "#1d5fa8"},
		{name: "key mod n", colour: "#6b7280", even: true},
		{name: "ring of 160 points per node", colour: "#c2570c"},
	}
	changes := []func(set, n int) (bench.Change, error){
		func(set, n int) (bench.Change, error) { return bench.ChangeOfHashRing(set, n, keys) },
		func(_, n int) (bench.Change, error) { return bench.ChangeOfModN(n), nil },
		func(set, n int) (bench.Change, error) { return bench.ChangeOfPointRing(set, n), nil },
	}
	for i := range list {
		list[i].results = make(map[int]result)
		for _, n := range sizes {
			r := result{loads: make([]float64, n)}
			for set := range sets {
				c, err := changes[i](set, n)
				if err != nil {
					return nil, err
				}
				slices.Sort(c.Before)
				slices.Reverse(c.Before)
				for j, share := range c.Before {
					r.loads[j] += share * float64(n) / sets
				}
				r.moved += c.Moved / sets
				r.unchanged += c.Unchanged / sets
			}
			list[i].results[n] = r
		}
	}
	return list, nil
}

// The layout, in pixels.
const (
	width, height = 960, 640
	panelWidth    = 380
	left, right   = 72, 528 // of the panels
	loadTop       = 124
	loadHeight    = 190
	movedTop      = 436
	movedHeight   = 132
	ink, faint    = "#1f2933", "#5b6673"
)

type canvas struct{ bytes.Buffer }

func (c *canvas) add(format string, args ...any) { fmt.Fprintf(c, format+"\n", args...) }

func (c *canvas) text(x, y float64, attributes, format string, args ...any) {
	c.add(`<text x="%.1f" y="%.1f" %s>%s</text>`, x, y, attributes, fmt.Sprintf(format, args...))
}

func (c *canvas) line(x1, y1, x2, y2 float64, attributes string) {
	c.add(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`, x1, y1, x2, y2, attributes)
}

func (c *canvas) rect(x, y, w, h float64, attributes string) {
	c.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" %s/>`, x, y, w, h, attributes)
}

func draw() ([]byte, error) {
	list, err := measure()
	if err != nil {
		return nil, err
	}
	c := new(canvas)
	c.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="title desc" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" font-size="13" fill="%s">`, width, height, width, height, ink)
	c.add(`<title id="title">Load per node, and keys moved when a node is added</title>`)
	c.add(`<desc id="desc">redsession's ring compared with key mod n and a ring of 160 points per node, for 8 and 32 nodes.</desc>`)
	c.add(`<defs>`)
	for i, s := range list {
		c.add(`<pattern id="wasted%d" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="%s" fill-opacity="0.18"/><rect width="2" height="6" fill="%s"/></pattern>`, i, s.colour, s.colour)
	}
	c.add(`</defs>`)
	// Paper, so that the picture can be read on a dark page.
	c.rect(0.5, 0.5, width-1, height-1, `rx="8" fill="#ffffff" stroke="#d5dae0"`)
	c.text(24, 36, `font-size="18" font-weight="bold"`, "Load per node, and keys moved when a node is added")
	x := 24.0
	for _, s := range list {
		c.rect(x, 53, 14, 14, fmt.Sprintf(`rx="2" fill="%s"`, s.colour))
		c.text(x+21, 65, "", "%s", s.name)
		x += 21 + 7.2*float64(len(s.name)) + 26
	}
	c.text(width-24, 65, fmt.Sprintf(`text-anchor="end" fill="%s"`, faint), "exact shares, mean over %d sets of node names", sets)
	for i, n := range sizes {
		at := float64([]int{left, right}[i])
		drawLoads(c, list, n, at)
		drawMoved(c, list, n, at)
	}
	c.add(`</svg>`)
	return c.Bytes(), nil
}

func drawLoads(c *canvas, list []series, n int, at float64) {
	const lowest, highest = 0.7, 1.3
	y := func(load float64) float64 { return loadTop + loadHeight*(highest-load)/(highest-lowest) }
	step := panelWidth / float64(n)
	x := func(i int) float64 { return at + step*(float64(i)+0.5) }

	c.text(at, loadTop-22, `font-size="15" font-weight="bold"`, "Load, %d nodes", n)
	for percent := 70; percent <= 130; percent += 10 {
		h := y(float64(percent) / 100)
		c.line(at, h, at+panelWidth, h, `stroke="#e3e7eb"`)
		c.text(at-8, h+4.5, fmt.Sprintf(`text-anchor="end" font-size="12" fill="%s"`, faint), "%d %%", percent)
	}
	c.line(at, loadTop+loadHeight, at+panelWidth, loadTop+loadHeight, fmt.Sprintf(`stroke="%s"`, faint))
	every := max(1, n/8)
	for i := 0; i < n; i++ {
		if i == 0 || (i+1)%every == 0 {
			c.text(x(i), loadTop+loadHeight+17, fmt.Sprintf(`text-anchor="middle" font-size="12" fill="%s"`, faint), "%d", i+1)
		}
	}
	c.text(at+panelWidth/2, loadTop+loadHeight+37, fmt.Sprintf(`text-anchor="middle" fill="%s"`, faint), "nodes, fullest first")
	c.add(`<text transform="translate(%.1f %.1f) rotate(-90)" text-anchor="middle" fill="%s">load / mean</text>`, at-50, float64(loadTop+loadHeight/2), faint)
	// redsession, the first, is drawn last: it lies on key mod n.
	for k := len(list) - 1; k >= 0; k-- {
		s := list[k]
		var path bytes.Buffer
		for i, load := range s.results[n].loads {
			fmt.Fprintf(&path, "%.1f,%.1f ", x(i), y(load))
		}
		thick, opacity := 2.0, 1.0
		if s.even { // a band under redsession's line
			thick, opacity = 7, 0.4
		}
		c.add(`<polyline points="%s" fill="none" stroke="%s" stroke-width="%.1f" stroke-opacity="%.1f" stroke-linejoin="round"/>`, bytes.TrimSpace(path.Bytes()), s.colour, thick, opacity)
		if !s.even {
			for i, load := range s.results[n].loads {
				c.add(`<circle cx="%.1f" cy="%.1f" r="%.1f" fill="%s"/>`, x(i), y(load), 3.2, s.colour)
			}
		}
	}
	// The fullest nodes, in the corner that no line reaches.
	c.text(at+panelWidth-8, loadTop+16, fmt.Sprintf(`text-anchor="end" font-size="12" fill="%s"`, faint), "fullest node / mean")
	for k, s := range list {
		c.text(at+panelWidth-8, loadTop+33+17*float64(k), fmt.Sprintf(`text-anchor="end" font-weight="bold" fill="%s"`, s.colour), "%.3f", s.results[n].loads[0])
	}
}

func drawMoved(c *canvas, list []series, n int, at float64) {
	x := func(part float64) float64 { return at + panelWidth*part }
	c.text(at, movedTop-36, `font-size="15" font-weight="bold"`, "Keys moved, %d → %d nodes", n, n+1)
	c.text(at+panelWidth, movedTop-8, fmt.Sprintf(`text-anchor="end" font-size="12" fill="%s"`, faint), "hatched: between unchanged nodes")
	for percent := 0; percent <= 100; percent += 20 {
		w := x(float64(percent) / 100)
		c.line(w, movedTop, w, movedTop+movedHeight, `stroke="#e3e7eb"`)
		c.text(w, movedTop+movedHeight+17, fmt.Sprintf(`text-anchor="middle" font-size="12" fill="%s"`, faint), "%d %%", percent)
	}
	c.text(at+panelWidth/2, movedTop+movedHeight+37, fmt.Sprintf(`text-anchor="middle" fill="%s"`, faint), "part of all keys")
	ideal := 1 / float64(n+1)
	for k, s := range list {
		r := s.results[n]
		top := movedTop + 10 + 42*float64(k)
		useful := r.moved - r.unchanged
		c.rect(x(0), top, panelWidth*useful, 26, fmt.Sprintf(`fill="%s"`, s.colour))
		label := fmt.Sprintf("%.2f %%", 100*r.moved)
		if r.unchanged == 0 {
			c.text(x(r.moved)+8, top+17.5, fmt.Sprintf(`font-weight="bold" fill="%s"`, s.colour), "%s", label)
			continue
		}
		c.rect(x(useful), top, panelWidth*r.unchanged, 26, fmt.Sprintf(`fill="url(#wasted%d)"`, k))
		middle := x(useful) + panelWidth*r.unchanged/2
		c.rect(middle-100, top+3, 200, 20, `rx="3" fill="#ffffff"`)
		c.text(middle, top+17.5, fmt.Sprintf(`text-anchor="middle" font-weight="bold" fill="%s"`, s.colour), "%s, hatched %.2f %%", label, 100*r.unchanged)
	}
	c.line(x(ideal), movedTop-4, x(ideal), movedTop+movedHeight, fmt.Sprintf(`stroke="%s" stroke-dasharray="4 3"`, ink))
	c.text(x(ideal)+4, movedTop-8, fmt.Sprintf(`font-size="12" fill="%s"`, faint), "ideal %.2f %%", 100*ideal)
	c.line(x(0), movedTop, x(0), movedTop+movedHeight, fmt.Sprintf(`stroke="%s"`, faint))
}
