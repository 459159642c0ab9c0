package main

import "fmt"

// refused says that somebody's bytes broke a rule. Rules have the names of docs/spec.md, section 15.
type refused struct{ rule, detail string }

func (r refused) Error() string { return r.rule + ": " + r.detail }

func refuse(rule, format string, words ...any) error {
	return refused{rule, fmt.Sprintf(format, words...)}
}
