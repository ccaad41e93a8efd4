package wire

// Names are the keys under which a struct is stored, as the plan sees them.
func (p *Plan) Names() []string {
	var names []string
	for _, f := range p.root.fields.list {
		names = append(names, f.name)
	}
	return names
}
