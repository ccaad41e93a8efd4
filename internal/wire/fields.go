package wire

import (
	"reflect"

	"github.com/vmihailenco/tagparser/v2"
)

// fieldSet is how the library sees a struct.
type fieldSet struct {
	list    []*structField          // what it encodes, in order
	byName  map[string]*structField // what it decodes
	marks   int                     // how many marks the fields use
	asArray bool
}

// structField is one field, or the name of an embedded struct whose fields were
// inlined: the library decodes both, and panics when an interface is filled a
// second time. So each has marks, an embedded struct those of its fields too,
// and no mark may be met twice.
type structField struct {
	name      string
	index     []int
	node      *node
	from, to  int  // marks
	inlinedAs bool // the name of an inlined struct
}

func (fs *fieldSet) add(t reflect.Type, f *structField) error {
	if other, taken := fs.byName[f.name]; taken && !other.inlinedAs {
		return refuse(t, "two fields are named %q", f.name)
	}
	f.from, f.to = fs.marks, fs.marks+1
	fs.marks++
	fs.byName[f.name] = f
	fs.list = append(fs.list, f)
	return nil
}

// fields follows getFields of the library, tag by tag, and refuses the structs
// that it would fail on or lose parts of.
func (c *compiler) fields(t reflect.Type) (*fieldSet, error) {
	fs := &fieldSet{byName: make(map[string]*structField)}
	hidden := false
	for i := range t.NumField() {
		sf := t.Field(i)
		tag := tagparser.Parse(sf.Tag.Get("msgpack"))
		if tag.Name == "-" {
			continue
		}
		if sf.Name == "_msgpack" {
			fs.asArray = tag.HasOption("as_array") || tag.HasOption("asArray")
		}
		if !sf.IsExported() && !sf.Anonymous {
			hidden = hidden || sf.Name != "_" && sf.Name != "_msgpack"
			continue
		}
		if tag.HasOption("intern") {
			return nil, refuse(t, "field %s: the tag option intern is not supported", sf.Name)
		}
		f := &structField{name: tag.Name, index: sf.Index}
		if f.name == "" {
			f.name = sf.Name
		}
		if sf.Anonymous && !tag.HasOption("noinline") {
			inlined, err := c.inline(fs, t, sf, f, tag.HasOption("inline"))
			if err != nil {
				return nil, err
			}
			if inlined {
				continue
			}
		}
		if !sf.IsExported() {
			return nil, refuse(t, "field %s: embedded, not exported and not inlined; tag it \"-\"", sf.Name)
		}
		var err error
		if f.node, err = c.node(sf.Type); err != nil {
			return nil, err
		}
		if err := fs.add(t, f); err != nil {
			return nil, err
		}
		if alias, ok := tag.Options["alias"]; ok {
			if _, taken := fs.byName[alias]; taken {
				return nil, refuse(t, "two fields are named %q", alias)
			}
			fs.byName[alias] = f
		}
	}
	if hidden && len(fs.list) == 0 {
		return nil, refuse(t, "no exported field and no encoding of its own: all would be lost")
	}
	return fs, nil
}

// inline adds the fields of an embedded struct to those of the outer one.
func (c *compiler) inline(fs *fieldSet, t reflect.Type, sf reflect.StructField, f *structField, forced bool) (bool, error) {
	typ := sf.Type
	if typ.Kind() == reflect.Pointer && (forced || plain(typ.Elem())) {
		// A nil one would come back as a pointer to zero values.
		return false, refuse(t, "field %s: embeds a pointer to a struct; tag it noinline, or give it a name", sf.Name)
	}
	switch {
	case forced && typ.Kind() != reflect.Struct:
		return false, refuse(t, "field %s: inline is for structs", sf.Name)
	case !forced && !plain(typ):
		return false, nil
	}
	inner, err := c.fields(typ)
	if err != nil {
		return false, err
	}
	for _, in := range inner.list {
		if _, taken := fs.byName[in.name]; taken && forced {
			return false, refuse(t, "two fields are named %q", in.name)
		} else if taken {
			return false, nil
		}
	}
	from := fs.marks
	fs.marks++
	for _, in := range inner.list {
		in.index = append(append([]int(nil), sf.Index...), in.index...)
		if err := fs.add(t, in); err != nil {
			return false, err
		}
	}
	if _, taken := fs.byName[f.name]; taken {
		return false, refuse(t, "two fields are named %q", f.name)
	}
	if f.node, err = c.node(typ); err != nil {
		return false, err
	}
	f.from, f.to, f.inlinedAs = from, fs.marks, true
	fs.byName[f.name] = f
	return true, nil
}
