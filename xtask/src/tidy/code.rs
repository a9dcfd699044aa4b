//! Rust source reduced to its code, so that words in comments and strings are not taken for it.

/// The source with comments and the insides of strings blanked; every line stays where it is.
pub(super) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => blank(&mut out, at, line_end(bytes, at)),
            b'/' if bytes[at..].starts_with(b"/*") => {
                let end = block_comment_end(bytes, at);
                blank(&mut out, at, end)
            }
            b'r' if is_raw_string(bytes, at) => {
                let end = raw_string_end(bytes, at);
                blank(&mut out, at, end)
            }
            b'"' => {
                let end = string_end(bytes, at);
                blank(&mut out, at + 1, end.saturating_sub(1).max(at + 1));
                end
            }
            b'\'' => char_end(bytes, at).map_or(at + 1, |end| blank(&mut out, at, end)),
            _ => at + 1,
        };
        at = end.max(at + 1);
    }
    // Only whole characters within comments and strings were replaced, each byte by a blank.
    String::from_utf8_lossy(&out).into_owned()
}

/// The code with every item behind `#[cfg(test)]` blanked. Takes what [`code_only`] returns.
pub(super) fn without_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let end = item_end(code.as_bytes(), start + "#[cfg(test)]".len());
        blank(&mut out, start, end);
        from = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The numbers (from 1) of the lines on which `word` stands with no identifier running into it.
pub(super) fn lines_with(code: &str, word: &str) -> Vec<usize> {
    let lines = code.lines().enumerate();
    lines
        .filter(|(_, line)| has_word(line, word))
        .map(|(index, _)| index + 1)
        .collect()
}

/// Whether `word` stands in the line with no identifier running into it on either side.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_part);
        let after = line[at + word.len()..].chars().next().is_some_and(is_part);
        let (first, last) = (word.chars().next(), word.chars().next_back());
        !(before && first.is_some_and(is_part) || after && last.is_some_and(is_part))
    })
}

fn blank(out: &mut [u8], start: usize, end: usize) -> usize {
    let end = end.min(out.len());
    for byte in &mut out[start.min(end)..end] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
    end
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |n| from + n)
}

fn block_comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0_usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn hashes(bytes: &[u8], from: usize) -> usize {
    bytes[from..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count()
}

/// Whether a raw string begins here, and not an identifier that has an `r` in it, nor a raw identifier.
fn is_raw_string(bytes: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).map(|index| bytes[index]);
    let starts_word = !before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        || matches!(before, Some(b'b' | b'c'));
    starts_word && bytes.get(at + 1 + hashes(bytes, at + 1)) == Some(&b'"')
}

fn raw_string_end(bytes: &[u8], at: usize) -> usize {
    let count = hashes(bytes, at + 1);
    let mut from = at + 2 + count;
    while from < bytes.len() {
        if bytes[from] == b'"' && hashes(bytes, from + 1) >= count {
            return from + 1 + count;
        }
        from += 1;
    }
    bytes.len()
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut from = at + 1;
    while from < bytes.len() {
        match bytes[from] {
            b'\\' => from += 2,
            b'"' => return from + 1,
            _ => from += 1,
        }
    }
    bytes.len()
}

/// Where a character literal ends; nothing for a lifetime.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes
            .get(at + 3..)?
            .iter()
            .position(|byte| *byte == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    let rest = std::str::from_utf8(bytes.get(at + 1..)?).ok()?;
    let char = rest.chars().next()?;
    let close = at + 1 + char.len_utf8();
    (bytes.get(close) == Some(&b'\'')).then_some(close + 1)
}

/// Where the item ends that begins behind an attribute: at its `;`, or behind its closing brace.
fn item_end(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0_usize;
    for (index, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index + 1;
                }
            }
            b';' if depth == 0 => return index + 1,
            _ => {}
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_blanked_and_lines_kept() {
        let check = |source: &str, expect: &str| {
            assert_eq!(code_only(source), expect, "{source}");
        };
        check("a // b\nc", "a     \nc");
        check("a /* b /* c\n */ d */ e", "a          \n         e");
        check(r#"f("a\"b", c)"#, r#"f("    ", c)"#);
        check("r#\"a\" b\"# + c", "          + c");
        check("let r = 'a'; // x", "let r =    ;     ");
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
        check("['\"', '\\'', 'é']", "[   ,     ,     ]");
    }

    #[test]
    fn test_items_are_blanked() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { c } }\nfn d() {}\n#[cfg(test)]\nuse e;\nf";
        let rest = without_tests(code);
        assert!(rest.contains("fn a") && rest.contains("fn d") && rest.ends_with('f'));
        assert!(!rest.contains('b') && !rest.contains("use e"));
        assert_eq!(rest.lines().count(), code.lines().count());
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("x = env::var(a)", "env::var"));
        assert!(!has_word("x = env::vars(a)", "env::var"));
        assert!(!has_word("myenv::var(a)", "env::var"));
        assert!(has_word("todo!()", "todo!"));
        assert_eq!(lines_with("a\nb a\nab", "a"), [1, 2]);
    }
}
