package object

import (
	"iter"
	"slices"
	"strings"
)

// Nearest gives the known name that the author of name most likely meant, or
// "" if none is near: the number of letters to insert, remove, replace or swap
// with their neighbour must be at most a third of the longer name. Letter case
// counts for little. Of two that are equally near the first in order of the
// alphabet is given.
func Nearest(name string, known iter.Seq[string]) string {
	if name == "" || len(name) > maxNearestLength {
		return ""
	}
	best, bestDistance := "", -1
	low := strings.ToLower(name)
	for c := range known {
		if c == "" || len(c) > maxNearestLength {
			continue
		}
		limit := max(len(name), len(c)) / 3
		if d := len(c) - len(name); d > limit || -d > limit {
			continue
		}
		distance := editDistance(low, strings.ToLower(c))
		if distance > limit {
			continue
		}
		if bestDistance < 0 || distance < bestDistance || distance == bestDistance && c < best {
			best, bestDistance = c, distance
		}
	}
	return best
}

// maxNearestLength bounds the work of Nearest on one pair of names.
const maxNearestLength = 256

// maxListed is how many known names Meant lists.
const maxListed = 16

// editDistance is the optimal string alignment distance over bytes.
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// Meant gives the mend `did you mean "x"?` for the nearest known name, or else
// lists the known names if they are few, or else gives "".
func Meant(name string, known iter.Seq[string]) string {
	if near := Nearest(name, known); near != "" {
		return `did you mean "` + near + `"?`
	}
	all := slices.Compact(slices.Sorted(known))
	if len(all) == 0 || len(all) > maxListed {
		return ""
	}
	return "known: " + strings.Join(all, ", ")
}
