package pattern

// FieldText decodes header fields as rules see them, one after the other. The
// zero value is ready; it is not for concurrent use.
type FieldText struct{ words words }

// Append appends the text of a field's value, which is one line: encoded words
// are decoded, and the result is UTF-8.
func (f *FieldText) Append(dst, value []byte) []byte { return f.words.append(dst, value) }
