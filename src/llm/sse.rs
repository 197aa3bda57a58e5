//! Server-sent events from a byte stream, cut anywhere (WHATWG HTML, section 9.2 "Server-sent events").
//!
//! Works on bytes, so a UTF-8 character split over two network reads is never looked at in halves. Lines that lie within
//! one read are used where they are; only broken ones are copied. Event data is left as bytes: whether it is UTF-8 is the
//! JSON parser's question. Nothing from the stream may make this file hold more than the configured number of bytes.

/// One dispatched event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The `event:` name, empty when there was none.
    pub name: &'a [u8],
    /// The `data:` lines, joined with line feeds.
    pub data: &'a [u8],
}

/// A line or an event is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {limit} bytes")]
pub struct TooLong {
    /// The limit in bytes.
    pub limit: usize,
}

/// An incremental parser; feed it reads in order.
#[derive(Debug)]
pub struct Parser {
    /// The beginning of a line whose end has not arrived.
    partial: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was CR: an LF that follows belongs to the same line end.
    after_cr: bool,
    at_start: bool,
    limit: usize,
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl Parser {
    /// A parser that refuses lines and events of more than `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            partial: Vec::new(),
            name: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_cr: false,
            at_start: true,
            limit,
        }
    }

    /// Takes the next bytes and hands every event they complete to `sink`. An event without its closing blank line is
    /// never handed out.
    ///
    /// # Errors
    /// [`TooLong`] at the bound, or the first error of `sink`; the parser must not be fed again after either.
    pub fn feed<E: From<TooLong>>(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.partial.is_empty() {
                self.line(line, &mut sink)?;
            } else {
                self.extend_partial(line)?;
                let whole = std::mem::take(&mut self.partial);
                self.line(&whole, &mut sink)?;
                self.partial = whole;
                self.partial.clear();
            }
            let is_cr = bytes[end] == b'\r';
            self.after_cr = is_cr && rest.is_empty();
            bytes = if is_cr { rest.strip_prefix(b"\n").unwrap_or(rest) } else { rest };
        }
        Ok(self.extend_partial(bytes)?)
    }

    fn extend_partial(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.partial.len() + bytes.len() > self.limit {
            return Err(TooLong { limit: self.limit });
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    fn line<E: From<TooLong>>(
        &mut self,
        mut line: &[u8],
        sink: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            let complete = std::mem::take(&mut self.has_data);
            let result = if complete { sink(Event { name: &self.name, data: &self.data }) } else { Ok(()) };
            self.name.clear();
            self.data.clear();
            return result;
        }
        let (field, value) = match line.iter().position(|b| *b == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let held = self.name.len() + self.data.len() + value.len() + 1;
        match field {
            b"data" | b"event" if held > self.limit => return Err(TooLong { limit: self.limit }.into()),
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            // Comments have an empty field name; `id` and `retry` serve reconnection, which costs money here.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Events = Vec<(String, String)>;

    fn parse_reads(reads: &[&[u8]], limit: usize) -> Result<Events, TooLong> {
        let mut parser = Parser::new(limit);
        let mut events = Vec::new();
        for read in reads {
            parser.feed::<TooLong>(read, |event| {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                events.push((text(event.name), text(event.data)));
                Ok(())
            })?;
        }
        Ok(events)
    }

    fn parse(text: &str) -> Events {
        parse_reads(&[text.as_bytes()], 10_000).unwrap()
    }

    fn event(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn follows_the_specification_line_by_line() {
        for (stream, events) in [
            ("data: a\n\n", vec![event("", "a")]),
            ("event: x\ndata:a\n\n", vec![event("x", "a")]),
            ("data: a\ndata: b\n\n", vec![event("", "a\nb")]),
            ("data:  {\"a\":1}  \n\n", vec![event("", " {\"a\":1}  ")]),
            (": comment\n\ndata: a\n\n", vec![event("", "a")]),
            (":\n:ping\n", vec![]),
            ("event: x\n\ndata: a\n\n", vec![event("", "a")]),
            ("data\n\n", vec![event("", "")]),
            ("data: a\r\n\r\ndata: b\r\rdata: c\n\n", vec![event("", "a"), event("", "b"), event("", "c")]),
            ("\u{FEFF}data: a\n\n", vec![event("", "a")]),
            ("id: 1\nretry: 5\nunknown: x\ndata: a\n\n", vec![event("", "a")]),
            ("data: a:b\n\n", vec![event("", "a:b")]),
            ("data: never closed\n", vec![]),
            ("data: never ended", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(parse(stream), events, "{stream:?}");
        }
    }

    #[test]
    fn a_stream_may_be_cut_at_any_two_bytes() {
        let stream =
            "\u{FEFF}event: a\r\ndata: {\"t\":\"日本€😀\"}\r\n\r\n: c\r\rdata: x\ndata:  y \n\nevent: b\ndata: z\n\n";
        let (bytes, whole) = (stream.as_bytes(), parse(stream));
        assert_eq!(whole.len(), 3);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let reads = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(parse_reads(&reads, 10_000).unwrap(), whole, "cut at {first} and {second}");
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(parse_reads(&single, 10_000).unwrap(), whole);
    }

    #[test]
    fn endless_lines_and_endless_events_are_refused() {
        assert_eq!(parse_reads(&[&[b'x'; 101]], 100), Err(TooLong { limit: 100 }));
        assert_eq!(parse_reads(&[b":", &[b'x'; 60], &[b'x'; 60]], 100), Err(TooLong { limit: 100 }));
        let lines = "data: 0123456789\n".repeat(10);
        assert_eq!(parse_reads(&[lines.as_bytes()], 100), Err(TooLong { limit: 100 }));
        assert!(parse_reads(&["data: 0123456789\n\n".repeat(1_000).as_bytes()], 100).is_ok());
    }
}
