package plan

// Safe says whether what the filter writes into a head stays where it is
// written. A Builder breaks the rule of one that is not; translation tells its
// author before.
func (f *Filter) Safe() bool { return f.clean() }
