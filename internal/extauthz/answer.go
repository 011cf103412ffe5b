package extauthz

import "errors"

var errSilent = errors.New("it says neither yes nor no")

// Parse reads a CheckResponse. A yes needs a status of 0, or the part that only a
// yes has; where parts contradict each other, it is a no.
func Parse(b []byte) (Answer, error) {
	a := Answer{}
	var code uint64
	status, denied, ok := false, false, false
	err := each(b, func(x field) error {
		var err error
		var m []byte
		switch x.number {
		case 1: // status
			if m, err = x.message(); err == nil {
				status = true
				err = a.readStatus(m, &code)
			}
		case 2: // denied_response
			if m, err = x.message(); err == nil {
				denied = true
				err = a.readDenied(m)
			}
		case 3: // ok_response
			if m, err = x.message(); err == nil {
				ok = true
				err = a.readOK(m)
			}
		}
		return err
	})
	if err == nil && !status && !denied && !ok {
		err = errSilent
	}
	if err != nil {
		return Answer{}, err
	}
	a.Allowed = code == 0 && !denied
	return a, nil
}

// readStatus reads a google.rpc.Status.
func (a *Answer) readStatus(b []byte, code *uint64) error {
	return each(b, func(x field) (err error) {
		switch x.number {
		case 1:
			*code, err = x.number32()
		case 2:
			a.Message, err = x.message()
		}
		return err
	})
}

// readDenied reads a DeniedHttpResponse.
func (a *Answer) readDenied(b []byte) error {
	return each(b, func(x field) (err error) {
		var m []byte
		switch x.number {
		case 1: // status
			if m, err = x.message(); err == nil {
				err = each(m, func(x field) error {
					if x.number != 1 {
						return nil
					}
					v, err := x.number32()
					a.Status = int(min(v, 1<<16))
					return err
				})
			}
		case 2: // headers
			a.Deny, err = appendEdit(a.Deny, &x)
		case 3:
			a.Body, err = x.message()
		}
		return err
	})
}

// readOK reads an OkHttpResponse.
func (a *Answer) readOK(b []byte) error {
	return each(b, func(x field) (err error) {
		switch x.number {
		case 2: // headers
			a.Request, err = appendEdit(a.Request, &x)
		case 5: // headers_to_remove
			var name []byte
			name, err = x.message()
			a.Remove = append(a.Remove, name)
		case 6: // response_headers_to_add
			a.Response, err = appendEdit(a.Response, &x)
		case 7: // query_parameters_to_set
			var m []byte
			var p Parameter
			if m, err = x.message(); err == nil {
				err = p.read(m)
			}
			a.QuerySet = append(a.QuerySet, p)
		case 8: // query_parameters_to_remove
			var name []byte
			name, err = x.message()
			a.QueryRemove = append(a.QueryRemove, name)
		}
		return err
	})
}

// read reads a QueryParameter.
func (p *Parameter) read(b []byte) error {
	return each(b, func(x field) (err error) {
		switch x.number {
		case 1:
			p.Name, err = x.message()
		case 2:
			p.Value, err = x.message()
		}
		return err
	})
}

// appendEdit reads a HeaderValueOption. Where it does not say what becomes of the
// field, the field is set.
func appendEdit(list []Edit, x *field) ([]Edit, error) {
	b, err := x.message()
	if err != nil {
		return list, err
	}
	e := Edit{Action: Set}
	err = each(b, func(x field) (err error) {
		var m []byte
		switch x.number {
		case 1: // header
			if m, err = x.message(); err == nil {
				err = e.readHeader(m)
			}
		case 2: // append
			if m, err = x.message(); err == nil {
				e.Action = Set
				err = each(m, func(x field) error {
					v, err := x.number32()
					if x.number == 1 && v != 0 {
						e.Action = Add
					}
					return err
				})
			}
		case 3: // append_action
			var v uint64
			v, err = x.number32()
			switch v {
			case 1:
				e.Action = SetIfAbsent
			case 2:
				e.Action = Set
			case 3:
				e.Action = SetIfThere
			}
		}
		return err
	})
	return append(list, e), err
}

// readHeader reads a HeaderValue.
func (e *Edit) readHeader(b []byte) error {
	return each(b, func(x field) error {
		m, err := x.message()
		switch x.number {
		case 1:
			e.Name = m
		case 2, 3: // value, raw_value
			if len(m) > 0 {
				e.Value = m
			}
		default:
			return nil
		}
		return err
	})
}
