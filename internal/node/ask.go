package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/feed"
	"windrose.dev/windrose/internal/tap"
)

// ask asks the data planes about single requests. A tap goes on with the next
// data plane where one goes away.
func (n *node) ask(ctx context.Context, q *tap.Question, tell func(*tap.Answer) error) error {
	err := n.feed.Ask(ctx, feed.Asking{Body: q, Standing: q.Tap != nil, Answer: func(body []byte, lost uint64) error {
		a := &tap.Answer{}
		if err := json.Unmarshal(body, a); err != nil {
			return fmt.Errorf("read an answer of the data plane: %w", err)
		}
		a.Dropped += lost
		return tell(a)
	}})
	if errors.Is(err, feed.ErrNobody) {
		return admin.ErrNoDataPlane
	}
	return err
}
