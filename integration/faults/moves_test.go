package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/redsession/redsession/integration/harness"
)

// What is done on purpose to a Redis Cluster in use: nothing may be lost by it.

// restarted: every node is restarted, a master after its replica has taken over.
func restarted(s *site, ctx context.Context, f turn) error {
	return s.beside(ctx, f, func() error {
		nodes := s.env.Nodes()
		f.shuffle(nodes)
		for _, n := range nodes {
			masters, err := s.env.Masters(ctx)
			if err != nil {
				return err
			}
			if slices.Contains(masters, n) {
				replicas, err := s.env.Replicas(ctx, n)
				if err != nil {
					return err
				}
				if len(replicas) == 0 {
					return fmt.Errorf("%s has no replica", n)
				}
				if err := s.env.Promote(ctx, replicas[0]); err != nil {
					return err
				}
			}
			if err := s.restart(ctx, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// restartedInPlace: every master is restarted, and has its append-only file.
func restartedInPlace(s *site, ctx context.Context, f turn) error {
	return s.beside(ctx, f, func() error {
		masters, err := s.env.Masters(ctx)
		if err != nil {
			return err
		}
		for _, n := range masters {
			if err := s.restart(ctx, n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *site) restart(ctx context.Context, n *harness.Node) error {
	if err := n.Stop(ctx); err != nil {
		return err
	}
	if err := n.Restart(ctx); err != nil {
		return err
	}
	return s.env.WaitReady(ctx)
}

// grown: a node joins, takes some slots of every master, gives them back, and
// leaves.
func grown(s *site, ctx context.Context, f turn) error {
	return s.beside(ctx, f, func() error {
		fresh := s.env.Spares()[0]
		if err := s.env.Join(ctx, fresh); err != nil {
			return err
		}
		masters, err := s.env.Masters(ctx)
		if err != nil {
			return err
		}
		masters = slices.DeleteFunc(masters, func(n *harness.Node) bool { return n == fresh })
		for _, n := range masters {
			some := 100
			if *long {
				had, err := s.env.Slots(ctx, n)
				if err != nil {
					return err
				}
				some = had / 4
			}
			if err := s.env.MoveSlots(ctx, n, fresh, some); err != nil {
				return err
			}
		}
		for i, n := range masters {
			has, err := s.env.Slots(ctx, fresh)
			if err != nil {
				return err
			}
			if err := s.env.MoveSlots(ctx, fresh, n, has/(len(masters)-i)); err != nil {
				return err
			}
		}
		if err := s.env.Leave(ctx, fresh); err != nil {
			return err
		}
		return s.env.WaitReady(ctx)
	})
}

// resharded: slots go from the master that has the most to another.
func resharded(s *site, ctx context.Context, f turn) error {
	return s.beside(ctx, f, func() error {
		masters, err := s.env.Masters(ctx)
		if err != nil {
			return err
		}
		f.shuffle(masters)
		from, most := 0, 0
		for i, n := range masters {
			has, err := s.env.Slots(ctx, n)
			if err != nil {
				return err
			}
			if has > most {
				from, most = i, has
			}
		}
		some := 500
		if *long {
			some = 4000
		}
		if err := s.env.MoveSlots(ctx, masters[from], masters[(from+1)%len(masters)], some); err != nil {
			return err
		}
		return s.env.WaitReady(ctx)
	})
}

func (f turn) shuffle(list []*harness.Node) {
	rnd := rand.New(rand.NewPCG(f.order, 0))
	rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}
