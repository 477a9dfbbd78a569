//! The kernel command line as words, split exactly as the kernel splits it (`next_arg` in lib/cmdline.c).

/// One word: `key`, or `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// What stands before the first `=`.
    pub key: Vec<u8>,
    /// What stands behind it, without enclosing quotes.
    pub value: Option<Vec<u8>>,
}

impl Word {
    /// The key, where it is text.
    pub fn key(&self) -> Option<&str> {
        std::str::from_utf8(&self.key).ok()
    }

    /// The value, where there is one and it is text.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.value.as_deref()?).ok()
    }

    /// The word as it can stand on a command line.
    pub fn render(&self) -> Vec<u8> {
        let mut word = self.key.clone();
        if let Some(value) = &self.value {
            word.push(b'=');
            word.extend_from_slice(value);
        }
        if word.iter().any(|b| is_space(*b)) {
            word.insert(0, b'"');
            word.push(b'"');
        }
        word
    }
}

/// The words before `--`; what follows it belongs to the real init, which the kernel hands it as arguments.
pub fn words(line: &[u8]) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = skip_space(rest);
        if rest.is_empty() {
            return words;
        }
        let (word, behind) = next(rest);
        if word.value.is_none() && word.key == b"--" {
            return words;
        }
        words.push(word);
        rest = behind;
    }
}

/// The words of a packed settings file: the same grammar, and `#` to the end of the line is a comment.
pub fn words_of_file(file: &[u8]) -> Vec<Word> {
    let is_comment = |line: &&[u8]| !skip_space(line).starts_with(b"#");
    file.split(|b| *b == b'\n').filter(is_comment).flat_map(words).collect()
}

fn next(line: &[u8]) -> (Word, &[u8]) {
    let quoted = line.first() == Some(&b'"');
    let line = if quoted { line.get(1..).unwrap_or_default() } else { line };
    let mut in_quote = quoted;
    let mut equals = None;
    let mut end = line.len();
    for (at, byte) in line.iter().enumerate() {
        if is_space(*byte) && !in_quote {
            end = at;
            break;
        }
        // As in the kernel, an `=` at the very start is part of the key.
        if equals.is_none() && at > 0 && *byte == b'=' {
            equals = Some(at);
        }
        if *byte == b'"' {
            in_quote = !in_quote;
        }
    }
    let (text, behind) = line.split_at(end);
    let text = if quoted { text.strip_suffix(b"\"").unwrap_or(text) } else { text };
    let word = match equals.map(|at| text.split_at(at)) {
        None => Word { key: text.to_vec(), value: None },
        Some((key, value)) => {
            let value = value.strip_prefix(b"=").unwrap_or(value);
            let value = match value.strip_prefix(b"\"") {
                Some(inner) => inner.strip_suffix(b"\"").unwrap_or(inner),
                None => value,
            };
            Word { key: key.to_vec(), value: Some(value.to_vec()) }
        }
    };
    (word, behind)
}

/// The kernel's `isspace`: its table counts 0xa0, the no-break space of Latin-1, too.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0xa0)
}

fn skip_space(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|b| !is_space(*b)).unwrap_or(line.len());
    line.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(line: &str) -> Vec<(String, Option<String>)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        words(line.as_bytes()).into_iter().map(|w| (text(w.key), w.value.map(text))).collect()
    }

    fn pair(key: &str, value: Option<&str>) -> (String, Option<String>) {
        (key.into(), value.map(Into::into))
    }

    #[test]
    fn splits_at_every_space_with_and_without_final_newline() {
        let expected = vec![pair("root", Some("/dev/a")), pair("quiet", None), pair("init", Some("/bin/sh"))];
        assert_eq!(pairs("root=/dev/a\tquiet  init=/bin/sh"), expected);
        assert_eq!(pairs("root=/dev/a\tquiet  init=/bin/sh\n"), expected);
    }

    #[test]
    fn words_behind_two_dashes_are_not_options() {
        assert_eq!(pairs("quiet -- init=/evil"), vec![pair("quiet", None)]);
    }

    #[test]
    fn quotes_hold_spaces_together() {
        assert_eq!(
            pairs("acpi_osi=\"!Windows 2006\" x"),
            vec![pair("acpi_osi", Some("!Windows 2006")), pair("x", None)]
        );
        assert_eq!(
            pairs("\"acpi_osi=!Windows 2006\" x"),
            vec![pair("acpi_osi", Some("!Windows 2006")), pair("x", None)]
        );
        assert_eq!(pairs("a=\"open end"), vec![pair("a", Some("open end"))]);
    }

    #[test]
    fn a_value_may_hold_equals_signs_and_a_word_may_begin_with_one() {
        assert_eq!(pairs("u=http://h/?a=b =x"), vec![pair("u", Some("http://h/?a=b")), pair("=x", None)]);
    }

    #[test]
    fn rendered_words_read_back_equal() {
        for line in ["a=b c", "k=\"x y\" z", "\"a b\"", "é=\u{fc}"] {
            for word in words(line.as_bytes()) {
                assert_eq!(words(&word.render()), [word]);
            }
        }
    }

    #[test]
    fn any_bytes_are_split_without_loss_of_control() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            let line: Vec<u8> = (0..24)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    b"a=\" -\t\n\xa0\xff\0"[(seed % 10) as usize]
                })
                .collect();
            assert!(words(&line).iter().map(|w| w.key.len() + 1).sum::<usize>() <= line.len() + 1);
        }
    }

    #[test]
    fn a_file_may_have_comments() {
        let words = words_of_file(b"# a=b\n  # c\nrootbeam.verify=require quiet\n\n");
        assert_eq!(words.len(), 2);
    }
}
