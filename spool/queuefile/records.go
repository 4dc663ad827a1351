package queuefile

import "io"

// Record is one record of an envelope, or of the section behind the content that
// holds what cleanup extracted from the headers.
type Record struct {
	// Type is the record's type byte, of src/global/rec_type.h.
	Type byte
	// Offset is where it begins: for a recipient the offset= of the logs in defer
	// and bounce.
	Offset int64
	// Value is its data up to the first NUL, as Postfix takes it, and no more than
	// 32 KiB of it. It is valid until the function it was given to returns.
	Value []byte
	// Cut says that Value is only the beginning.
	Cut bool
}

// names are what postcat calls the records (src/global/rec_type.c).
var names = [256]string{
	recSize: "message_size", recTime: "message_arrival_time", 'c': "queue_file_create_time",
	'F': "sender_fullname", 'I': "content_inspector", recLong: "content_filter", recSender: "sender",
	recDone: "done_recipient", recCanceled: "canceled_recipient", recRecipient: "recipient",
	recOriginal: "original_recipient", 'W': "warning_message_time", recAttribute: "named_attribute",
	'K': "killed_record", recRedirect: "redirect_to", recMessage: "message_content",
	recExtracted: "extracted_info", 'r': "return_receipt", 'e': "errors_to", 'P': "priority",
	'V': "verp_delimiters", recEnd: "message_end",
	'<': "dsn_return_flags", 'i': "dsn_envelope_id", 'o': "dsn_original_recipient", 'n': "dsn_notify_flags",
}

// Name is what postcat calls a record of this type.
func (rec Record) Name() string { return names[rec.Type] }

// Attribute splits the value of a named_attribute record, which Envelope has found
// to be well-formed. Attributes that this package does not know are given like any
// other.
func (rec Record) Attribute() (name, value []byte) {
	if rec.Type == recAttribute {
		name, value, _ = attribute(rec.Value)
	}
	return name, value
}

// Records calls visit with every record but the content's, in the order that the
// queue manager meets them, pointers followed: the envelope, which ends with the
// record M, then X and the section behind the content, which ends with E. An error
// of visit ends the reading and is returned.
//
// The envelope is read first, if it was not; what [Reader.Envelope] does not accept
// gives no records.
func (r *Reader) Records(visit func(Record) error) error {
	if r.content == 0 {
		if _, err := r.Envelope(); err != nil {
			return err
		}
	}
	r.begin(0)
	for sized := false; ; {
		if sized && r.pos == r.content {
			r.pos = r.extracted
		}
		rec, err := r.next()
		if err == io.EOF {
			return &Broken{rec.at, "no end record"}
		} else if err != nil {
			return err
		}
		if rec.kind == recPointer {
			if err := r.jump(rec); err != nil {
				return err
			}
			continue
		}
		value, err := r.data(rec)
		if err != nil {
			return err
		}
		if err := visit(Record{rec.kind, rec.at, value, rec.n > maxValue}); err != nil {
			return err
		}
		switch {
		case rec.kind == recEnd:
			return nil
		case rec.kind == recSize && !r.maildrop:
			sized = true
		case rec.kind == recMessage && r.maildrop:
			r.pos = r.extracted
		}
	}
}
