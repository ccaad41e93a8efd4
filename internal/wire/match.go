package wire

// Check walks one msgpack value along the type and refuses, beside what [Check]
// refuses, all that the decoder would cut, round, wrap or turn into a zero
// value without a word, and all that would make it panic.
func (p *Plan) Check(data []byte) error {
	r, err := newReader(data)
	if err != nil {
		return err
	}
	if err := r.value(p.root, 0); err != nil {
		return err
	}
	return r.end()
}

func (r *reader) value(n *node, depth int) error {
	it, err := r.next()
	if err != nil {
		return err
	}
	for n.op == opPointer {
		if it.kind == kindNil {
			return nil
		}
		n = n.elem
		if err := r.charge(1, n.size); err != nil {
			return err
		}
	}
	switch n.op {
	case opAny:
		return r.rest(it, depth, true)
	case opOwn:
		return r.rest(it, depth, false)
	case opOwnAsBytes:
		// nil is what the library writes for a nil slice of bytes.
		return n.expect(it, it.kind == kindBytes || it.kind == kindString || it.kind == kindNil)
	case opBool:
		return n.expect(it, it.kind == kindBool)
	case opInt:
		return n.number(it, it.fits(n.bits, false))
	case opUint:
		return n.number(it, it.fits(n.bits, true))
	case opFloat32:
		if it.kind == kindFloat32 {
			return nil
		}
		return n.number(it, it.exact(24))
	case opFloat64:
		if it.kind == kindFloat32 || it.kind == kindFloat64 {
			return nil
		}
		return n.number(it, it.exact(53))
	case opString:
		return n.expect(it, it.kind == kindString)
	case opBytes:
		return n.expect(it, it.kind == kindBytes || it.kind == kindNil)
	case opByteArray:
		if it.kind == kindBytes && uint64(len(it.body)) != n.length {
			return n.wrongLength()
		}
		return n.expect(it, it.kind == kindBytes)
	case opTime:
		return n.expect(it, it.kind == kindTime)
	case opErrorText:
		return n.expect(it, it.kind == kindString || it.kind == kindNil)
	case opNilOnly:
		return n.expect(it, it.kind == kindNil)
	case opArray, opSlice:
		return r.elements(n, it, depth)
	case opMap:
		return r.entries(n, it, depth)
	}
	return r.structure(n, it, depth)
}

func (n *node) expect(it item, ok bool) error {
	if ok {
		return nil
	}
	return Error(it.kind.String() + " where " + n.typ.String() + " is expected")
}

func (n *node) number(it item, fits bool) error {
	if it.kind == kindInt && !fits {
		return Error("an integer does not fit " + n.typ.String())
	}
	return n.expect(it, it.kind == kindInt)
}

func (n *node) wrongLength() error {
	return Error("another number of elements than " + n.typ.String() + " has")
}

func (r *reader) elements(n *node, it item, depth int) error {
	if it.kind == kindNil && n.op == opSlice {
		return nil
	}
	if it.kind != kindArray {
		return n.expect(it, false)
	}
	if depth == MaxDepth {
		return ErrDepth
	}
	if n.op == opArray {
		if it.n != n.length {
			return n.wrongLength()
		}
	} else if err := r.charge(it.n, n.elem.size); err != nil {
		return err
	}
	for range it.n {
		if err := r.value(n.elem, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) entries(n *node, it item, depth int) error {
	if it.kind == kindNil {
		return nil
	}
	if it.kind != kindMap {
		return n.expect(it, false)
	}
	if depth == MaxDepth {
		return ErrDepth
	}
	if err := r.chargeMap(it.n, n.key.size, n.elem.size); err != nil {
		return err
	}
	for range it.n {
		if err := r.value(n.key, depth+1); err != nil {
			return err
		}
		if err := r.value(n.elem, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) structure(n *node, it item, depth int) error {
	fs := n.fields
	array := it.kind == kindArray && fs.asArray
	if it.kind != kindMap && !array {
		return n.expect(it, false)
	}
	if depth == MaxDepth {
		return ErrDepth
	}
	if array {
		if it.n != uint64(len(fs.list)) {
			return ErrFields
		}
		for _, f := range fs.list {
			if err := r.value(f.node, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	var few [4]uint64
	met := few[:]
	if fs.marks > 64*len(few) {
		met = make([]uint64, (fs.marks+63)/64)
	}
	for range it.n {
		key, err := r.next()
		if err != nil {
			return err
		}
		if key.kind != kindString {
			return ErrName
		}
		f := fs.byName[string(key.body)]
		if f == nil { // unknown: passed over, and lost when this struct is saved
			if err := r.skip(depth+1, false); err != nil {
				return err
			}
			continue
		}
		for mark := f.from; mark < f.to; mark++ {
			if met[mark/64]>>(mark%64)&1 != 0 {
				return ErrRepeated
			}
		}
		for mark := f.from; mark < f.to; mark++ {
			met[mark/64] |= 1 << (mark % 64)
		}
		if err := r.value(f.node, depth+1); err != nil {
			return err
		}
	}
	return nil
}
