# Prints what Python's email finds in the mails named on standard input, a JSON
# document a line: {"header": [[name, value]], "plain": [text], "html": [text],
# "files": [[name, type, size]]}.
import base64, codecs, email, email.errors, email.header, json, quopri, re, sys

def name_of(charset):
    try:
        return codecs.lookup(charset).name
    except (LookupError, ValueError, TypeError):
        return None

def one_byte(error):
    byte = error.object[error.start:error.start + 1]
    return byte.decode("cp1252", "replace"), error.start + 1

codecs.register_error("windows", one_byte)

# What names stand for in mail and browsers: supersets.
SUPERSETS = {"iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "shift_jis": "cp932",
             "iso8859-9": "cp1254", "tis-620": "cp874", "iso2022_jp": "iso2022_jp_ext", "big5": "big5hkscs"}

def text(raw, charset):
    charset = charset and re.sub(r"(?i)(iso-8859-8)-[ie]$|\*.*", r"\1", charset) # a language: RFC 2231
    known = name_of(charset)
    if known in (None, "ascii", "utf-8"):
        return raw.decode("utf-8", "windows")
    return raw.decode(SUPERSETS.get(known, known), "replace")

def unfold(value):
    return re.sub(r"\r?\n(?=[ \t])", "", value)

def header(value):
    try:
        pieces = email.header.decode_header(unfold(value))
    except email.errors.HeaderParseError:
        return value
    try:
        return "".join(text(p.encode("latin-1") if isinstance(p, str) else p, c) for p, c in pieces)
    except UnicodeEncodeError: # a file's name by RFC 2231, which is decoded already
        return value

def leaves(message):
    if message.get_content_type() == "message/rfc822" and message.is_multipart():
        # Python does not decode a message that is encoded, which RFC 2046 forbids.
        inner = message.get_payload(0)
        encoding = message.get("content-transfer-encoding", "").strip().lower()
        if encoding in ("base64", "quoted-printable"):
            raw = inner.as_string().lstrip("\n").encode("latin-1", "replace")
            decode = base64.b64decode if encoding == "base64" else quopri.decodestring
            inner = email.message_from_string(decode(raw).decode("latin-1"))
        yield from leaves(inner)
    elif message.is_multipart():
        for part in message.get_payload():
            yield from leaves(part)
    else:
        yield message

def fields(message):
    return [[name, header(value)] for name, value in message.items()]

for path in sys.stdin.read().splitlines():
    with open(path, "rb") as f:
        # Bytes beyond ASCII as characters, so that no header is an object of its own.
        message = email.message_from_string(f.read().decode("latin-1"))
    out = {"header": fields(message), "plain": [], "html": [], "files": []}
    for part in leaves(message):
        kind, file = part.get_content_type(), part.get_filename()
        encoding = part.get("content-transfer-encoding", "").strip().lower()
        payload = part.get_payload(decode=True)
        if encoding not in ("base64", "quoted-printable"):
            payload = part.get_payload().encode("latin-1", "replace")
        is_html = kind in ("text/html", "application/xhtml+xml")
        if file or not is_html and part.get_content_maintype() not in ("text", "message", "multipart"):
            out["files"].append([file and header(file), kind, len(payload)])
        if kind == "text/rfc822-headers":
            returned = email.message_from_string(payload.decode("latin-1"))
            out["plain"] += ["%s: %s" % (name, value) for name, value in fields(returned)]
            continue
        charset = part.get_param("charset")
        if isinstance(charset, tuple):
            charset = charset[2]
        if is_html:
            if charset is None:
                meta = re.search(rb"<meta[^>]*charset\s*=\s*[\"']?([^\"'\s/>;]+)", payload[:1024], re.I)
                charset = meta and meta.group(1).decode("latin-1")
            out["html"].append(text(payload, charset))
        elif part.get_content_maintype() == "text":
            out["plain"].append(text(payload, charset))
    print(json.dumps(out))
