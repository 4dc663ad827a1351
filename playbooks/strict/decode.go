package strict

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Decode stores v in into, a pointer. Fields of structs are named by their json
// tags, because what is decoded here also travels as JSON. Nothing is guessed: a
// key that is no field, a value of another type, a number out of range are errors
// of type *[Error] that say what was expected.
//
// A null is an empty struct, map or list, a nil pointer, nothing in an any; elsewhere it
// is an error. A time.Duration is written as 90s, 5m or 7d. A type with
// UnmarshalJSON gets the plain value as JSON; one with UnmarshalText gets the text
// of a scalar as it was written, a number's too.
func Decode(v *Value, into any) error {
	rv := reflect.ValueOf(into)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		panic(fmt.Sprintf("strict: Decode into a %T", into))
	}
	return decode(v, rv.Elem(), "")
}

var durationType = reflect.TypeFor[time.Duration]()

// decode stores v in rv; name is its path from where Decode began.
func decode(v *Value, rv reflect.Value, name string) error {
	if rv.Kind() == reflect.Pointer {
		if v.Kind == Null {
			rv.SetZero()
			return nil
		}
		rv.Set(reflect.New(rv.Type().Elem()))
		return decode(v, rv.Elem(), name)
	}
	if rv.Type() == durationType {
		return decodeDuration(v, rv, name)
	}
	switch own := rv.Addr().Interface().(type) {
	case json.Unmarshaler:
		text, err := json.Marshal(v.Plain())
		if err == nil {
			err = own.UnmarshalJSON(text)
		}
		return located(v, name, err)
	case encoding.TextUnmarshaler:
		if v.Kind == Null || v.Kind == List || v.Kind == Map {
			return wanted(v, name, "text")
		}
		return located(v, name, own.UnmarshalText([]byte(v.Text)))
	}

	switch rv.Kind() {
	case reflect.Interface:
		if rv.NumMethod() > 0 {
			break
		}
		rv.SetZero()
		if plain := v.Plain(); plain != nil {
			rv.Set(reflect.ValueOf(plain))
		}
		return nil
	case reflect.Struct:
		return decodeStruct(v, rv, name)
	case reflect.Map:
		return decodeMap(v, rv, name)
	case reflect.Slice:
		return decodeSlice(v, rv, name)
	case reflect.String:
		switch v.Kind {
		case String:
			rv.SetString(v.scalar.(string))
			return nil
		case Bool, Int, Float:
			return wanted(v, name, "text").WithHint("quote it: %s", quoted(v.Text))
		}
		return wanted(v, name, "text")
	case reflect.Bool:
		b, ok := v.scalar.(bool)
		if !ok {
			return wanted(v, name, "true or false")
		}
		rv.SetBool(b)
		return nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, ok := v.scalar.(int64)
		if !ok || rv.OverflowInt(n) {
			return wanted(v, name, "a whole number")
		}
		rv.SetInt(n)
		return nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, ok := v.scalar.(int64)
		if !ok || n < 0 || rv.OverflowUint(uint64(n)) {
			return wanted(v, name, "a whole number from 0")
		}
		rv.SetUint(uint64(n))
		return nil
	case reflect.Float32, reflect.Float64:
		switch n := v.scalar.(type) {
		case int64:
			rv.SetFloat(float64(n))
			return nil
		case float64:
			rv.SetFloat(n)
			return nil
		}
		return wanted(v, name, "a number")
	}
	panic(fmt.Sprintf("strict: cannot decode into a %s", rv.Type()))
}

func decodeStruct(v *Value, rv reflect.Value, name string) error {
	if v.Kind == Null {
		return nil
	}
	if v.Kind != Map || v.Get(Vaulted) != nil {
		return wanted(v, name, "a map")
	}
	fields := make(map[string]reflect.Value)
	names := structFields(rv, fields, nil)
	for _, e := range v.entries {
		field, ok := fields[e.Key.Text]
		if !ok {
			what := "key"
			if name != "" {
				what = "key of " + name + ":"
			}
			return e.Key.Unknown(what, names)
		}
		if err := decode(e.Value, field, join(name, e.Key.Text)); err != nil {
			return err
		}
	}
	return nil
}

// structFields fills fields by their names and returns these in order. Embedded
// structs without a tag count as part of the outer one, as in encoding/json.
func structFields(rv reflect.Value, fields map[string]reflect.Value, names []string) []string {
	for i := range rv.NumField() {
		f := rv.Type().Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == "-":
			continue
		case f.Anonymous && tag == "" && f.Type.Kind() == reflect.Struct:
			names = structFields(rv.Field(i), fields, names)
			continue
		case !f.IsExported():
			continue
		case tag == "":
			tag = f.Name
		}
		fields[tag] = rv.Field(i)
		names = append(names, tag)
	}
	return names
}

func decodeMap(v *Value, rv reflect.Value, name string) error {
	if rv.Type().Key().Kind() != reflect.String {
		panic(fmt.Sprintf("strict: cannot decode into a %s", rv.Type()))
	}
	if v.Kind == Null {
		rv.SetZero()
		return nil
	}
	if v.Kind != Map {
		return wanted(v, name, "a map")
	}
	m := reflect.MakeMapWithSize(rv.Type(), len(v.entries))
	for _, e := range v.entries {
		value := reflect.New(rv.Type().Elem()).Elem()
		if err := decode(e.Value, value, join(name, e.Key.Text)); err != nil {
			return err
		}
		m.SetMapIndex(reflect.ValueOf(e.Key.Text).Convert(rv.Type().Key()), value)
	}
	rv.Set(m)
	return nil
}

func decodeSlice(v *Value, rv reflect.Value, name string) error {
	if v.Kind == Null {
		rv.SetZero()
		return nil
	}
	if v.Kind != List {
		return wanted(v, name, "a list")
	}
	list := reflect.MakeSlice(rv.Type(), len(v.items), len(v.items))
	for i, item := range v.items {
		if err := decode(item, list.Index(i), join(name, strconv.Itoa(i+1))); err != nil {
			return err
		}
	}
	rv.Set(list)
	return nil
}

func decodeDuration(v *Value, rv reflect.Value, name string) error {
	// A bare 0 is the one number that needs no unit.
	if v.Kind == Int && v.scalar.(int64) == 0 {
		rv.SetInt(0)
		return nil
	}
	if v.Kind == String {
		if d, err := ParseDuration(v.Text); err == nil {
			rv.SetInt(int64(d))
			return nil
		}
	}
	return wanted(v, name, "a time such as 90s, 5m or 7d")
}

// ParseDuration reads a time that is not negative, as time.ParseDuration does,
// with days before the rest: 7d, 1d12h.
func ParseDuration(text string) (time.Duration, error) {
	const day = 24 * time.Hour
	var days time.Duration
	rest := text
	if number, after, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("not a time: %q", text)
		}
		days, rest = time.Duration(n)*day, after
		if rest == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || days+d < 0 {
		return 0, fmt.Errorf("not a time: %q", text)
	}
	return days + d, nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func wanted(v *Value, name, want string) *Error {
	return prefixed(v.Wanted(want), name)
}

func located(v *Value, name string, err error) error {
	if err == nil {
		return nil
	}
	return prefixed(v.Locate(err), name)
}

func prefixed(e *Error, name string) *Error {
	if name == "" {
		return e
	}
	return e.In(name)
}
