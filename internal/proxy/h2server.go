package proxy

import (
	"errors"

	"windrose.dev/windrose/internal/upstream"
)

func (w *worker) connectH2(*exchange, *upstream.Endpoint) (serverSide, error) {
	return nil, errors.New("not here")
}
