//! Secrets: read from the environment or a file, never printed.
//!
//! A type of its own rather than a careful habit: its `Debug` and `Display` say nothing, it cannot be serialized, and so
//! no log line, error or `config show` can give it away.

use std::fmt;
use std::path::Path;

use super::{ConfigError, Environment};

/// The shortest beginning of a secret that is struck from texts, in bytes; less of it is of no use to anybody.
const SHORTEST_STRUCK: usize = 8;

/// A text that its `Debug` and `Display` forms never show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Takes the secret out of a text that somebody else wrote, also where only its beginning was kept.
    pub fn strike_from(&self, text: &mut String) {
        let Some(beginning) = self.0.get(..SHORTEST_STRUCK) else { return };
        while let Some(at) = text.find(beginning) {
            let same = text[at..].bytes().zip(self.0.bytes()).take_while(|(found, own)| found == own).count();
            let end = text.ceil_char_boundary(at + same);
            text.replace_range(at..end, "[secret]");
        }
    }

    /// Reads the file that the setting `key` names, without the white space around its text.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] naming `key` when the file is empty, too large or cannot be read.
    pub fn from_file(key: &str, path: &Path) -> Result<Self, ConfigError> {
        let fault = |why: String| ConfigError::one(key, why);
        let unreadable = |error: std::io::Error| fault(format!("cannot read {}: {error}", path.display()));
        let found = std::fs::metadata(path).map_err(unreadable)?;
        if !found.is_file() || found.len() > MAX_SECRET_BYTES {
            return Err(fault(format!("{} is not a file of at most {MAX_SECRET_BYTES} bytes", path.display())));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        if text.trim().is_empty() {
            return Err(fault(format!("the file {} is empty", path.display())));
        }
        Ok(Self::new(text.trim()))
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where the provider's key comes from.
pub struct ApiKey;

/// Longest file of a secret, in bytes; a key is a line of text, credentials are a page, anything longer is the wrong file.
const MAX_SECRET_BYTES: u64 = 4096;

impl ApiKey {
    /// Reads `ANTHROPIC_API_KEY`, or the file that `ANTHROPIC_API_KEY_FILE` names. `None` when neither is set.
    ///
    /// # Errors
    /// As for [`ApiKey::named`].
    pub fn read(environment: &Environment) -> Result<Option<Secret>, ConfigError> {
        Self::named(environment, "ANTHROPIC_API_KEY")
    }

    /// Reads `variable`, or the file that `variable` with `_FILE` after it names. `None` when neither is set.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when both are set, the file cannot be read, or the key is empty or not printable ASCII.
    pub fn named(environment: &Environment, variable: &str) -> Result<Option<Secret>, ConfigError> {
        let fault = |why: String| ConfigError::one(variable, why);
        let variable_of_file = format!("{variable}_FILE");
        let direct = environment.get(variable).filter(|text| !text.is_empty());
        let file = environment.get(&variable_of_file).filter(|text| !text.is_empty());
        let text = match (direct, file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(fault(format!("it is set together with {variable_of_file}; keep one of them")));
            }
            (Some(text), None) => text.to_owned(),
            (None, Some(path)) => Secret::from_file(&variable_of_file, Path::new(path))?.0,
        };
        let key = text.trim();
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(fault("the key is empty or holds characters that cannot be sent in a header".into()));
        }
        Ok(Some(Secret::new(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("sk-hidden");
        assert!(!format!("{secret:?} {secret}").contains("hidden"));
    }

    #[test]
    fn a_secret_is_struck_from_texts_also_where_they_were_cut() {
        let secret = Secret::new("sk-ant-0123456789");
        for (said, expected) in [
            ("bad key sk-ant-0123456789 given, sk-ant-0123456789", "bad key [secret] given, [secret]"),
            ("cut: sk-ant-01234", "cut: [secret]"),
            ("cut: sk-ant-0ü", "cut: [secret]ü"),
            ("your key begins with sk-ant", "your key begins with sk-ant"),
            ("nothing", "nothing"),
        ] {
            let mut text = said.to_owned();
            secret.strike_from(&mut text);
            assert_eq!(text, expected);
        }
        let mut text = "none of it".to_owned();
        Secret::new("none").strike_from(&mut text);
        assert_eq!(text, "none of it");
    }

    #[test]
    fn the_key_comes_from_one_place_only() {
        let both = Environment::from_pairs([("ANTHROPIC_API_KEY", "a"), ("ANTHROPIC_API_KEY_FILE", "/b")]);
        assert!(ApiKey::read(&both).is_err());
        assert_eq!(ApiKey::read(&Environment::default()).ok(), Some(None));
        let broken = Environment::from_pairs([("ANTHROPIC_API_KEY", "a b")]);
        assert!(ApiKey::read(&broken).is_err());
    }

    #[test]
    fn the_key_file_is_trimmed_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "sk-1\n").unwrap();
        let environment = Environment::from_pairs([("ANTHROPIC_API_KEY_FILE", path.to_str().unwrap())]);
        assert_eq!(ApiKey::read(&environment).unwrap().unwrap().expose(), "sk-1");
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(ApiKey::read(&environment).is_err());
    }
}
