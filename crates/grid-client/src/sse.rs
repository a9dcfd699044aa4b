//! Server-sent events, as the HTML standard's section 9.2.6 parses them.

/// One event of the stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The last id that the stream named, here or before.
    pub(crate) id: Option<String>,
    /// The data lines, joined by line feeds.
    pub(crate) data: String,
}

/// Cuts bytes into events, however they are cut into chunks.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    last_id: Option<String>,
    data: Option<String>,
}

impl Parser {
    /// Takes bytes and gives the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.buffer.extend_from_slice(bytes);
        let mut frames = Vec::new();
        let mut start = 0;
        while let Some(length) = self.buffer[start..].iter().position(|b| *b == b'\n') {
            let line = self.buffer[start..start + length].to_vec();
            start += length + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            self.line(&String::from_utf8_lossy(line), &mut frames);
        }
        self.buffer.drain(..start);
        frames
    }

    /// How many bytes wait for the end of their line.
    pub(crate) fn pending(&self) -> usize {
        self.buffer.len() + self.data.as_ref().map_or(0, String::len)
    }

    fn line(&mut self, line: &str, frames: &mut Vec<Frame>) {
        if line.is_empty() {
            if let Some(data) = self.data.take() {
                frames.push(Frame {
                    id: self.last_id.clone(),
                    data,
                });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.last_id = Some(value.to_owned()),
            // Comments keep the connection alive; `event` repeats the kind that the data holds.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: &str, data: &str) -> Frame {
        Frame {
            id: (!id.is_empty()).then(|| id.to_owned()),
            data: data.to_owned(),
        }
    }

    #[test]
    fn events_are_found_in_any_cut() {
        let check = |text: &str, expect: &[Frame]| {
            for size in [1, 2, 7, 1000] {
                let mut parser = Parser::default();
                let got: Vec<_> = text
                    .as_bytes()
                    .chunks(size)
                    .flat_map(|chunk| parser.push(chunk))
                    .collect();
                assert_eq!(got, expect, "{text:?} by {size}");
            }
        };
        check("data: a\n\n", &[frame("", "a")]);
        check(
            "id: 7\nevent: node.changed\ndata: {\"x\":1}\n\n",
            &[frame("7", "{\"x\":1}")],
        );
        check("data: a\r\ndata:b\r\n\r\n", &[frame("", "a\nb")]);
        check(": keep-alive\n\n", &[]);
        check("id: 1\n\ndata: x\n\n", &[frame("1", "x")]);
        check("data: unfinished\n", &[]);
        check("data: é\n\ndata\n\n", &[frame("", "é"), frame("", "")]);
    }
}
