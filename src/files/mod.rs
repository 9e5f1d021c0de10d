//! Files that the worker pool or a secret puts on the machine: all of them or none.
//!
//! Everything is decoded, verified and staged beside its target first; only then is anything moved into place.
//! What is already there and not ours stays.

mod archive;
mod content;
mod names;
mod stage;

use crate::hash::hex;
use crate::platform::Privacy;
use content::Content;
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;

#[cfg(windows)]
pub use names::problem_of_name;
pub use stage::{place, sync};

/// The mode of a file that came from a secret, and of any other, where it doesn't say. The Go program writes
/// 0777 less the umask, so scripts shipped this way run.
const SECRET_MODE: u32 = 0o600;
const MODE: u32 = 0o755;

/// One file, or one archive of files.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct FileSpec {
    /// What it is for.
    pub description: String,
    /// Where it goes; for an archive the folder that it is unpacked into.
    pub path: PathBuf,
    /// Its content, base64.
    content: String,
    /// What the content is.
    format: Format,
    /// Its permission bits, where they were given.
    mode: Option<u32>,
    /// The user it belongs to, by name or number.
    owner: Option<String>,
    /// The group it belongs to, by name or number.
    group: Option<String>,
    /// What the content's SHA-256 must be, in lower-case hexadecimal.
    sha256: Option<String>,
    /// Whether it came from a secret.
    secret: bool,
    /// Whether it has been written: then it is kept for what is secret in it.
    #[serde(default)]
    written: bool,
}

/// What a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    File,
    Zip,
}

/// Without the content.
impl fmt::Debug for FileSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileSpec({self})")
    }
}

/// For messages: `"the worker's licence" (/etc/licence)`.
impl fmt::Display for FileSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.description, self.path.display())
    }
}

/// The files can't be used or can't be written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// An element of `files` is not as documented.
    #[error("files[{index}]{file}: {problem}")]
    Spec {
        /// Which element, from 0.
        index: usize,
        /// Its description and path, as far as it has them.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `files` is no list.
    #[error("it must be a list")]
    NoList,
    /// A file can't be decoded.
    #[error("the file {file}: {problem}")]
    Content {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file can't be written.
    #[error("the file {file}: cannot {action} {}", path.display())]
    Write {
        /// The file.
        file: String,
        /// What could not be done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl FileSpec {
    /// Reads a list of files. `secret` says that it came from a secret.
    ///
    /// # Errors
    /// What is wrong with the first file that is wrong; names keys, never values.
    pub fn read_list(list: Value, secret: bool) -> Result<Vec<Self>, FilesError> {
        let Value::Array(elements) = list else { return Err(FilesError::NoList) };
        let read = |(index, element): (usize, Value)| {
            let part = |key: &str| element.get(key).and_then(Value::as_str).map(str::to_owned);
            let file = match (part("description"), part("path")) {
                (Some(description), Some(path)) => format!(" {description:?} ({path})"),
                (Some(description), None) => format!(" {description:?}"),
                (None, Some(path)) => format!(" ({path})"),
                (None, None) => String::new(),
            };
            Self::read(element, secret).map_err(|problem| FilesError::Spec { index, file, problem })
        };
        elements.into_iter().enumerate().map(read).collect()
    }

    fn read(element: Value, secret: bool) -> Result<Self, String> {
        let Value::Object(mut members) = element else { return Err("it must be an object".into()) };
        let mut text = |key: &str| match members.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("`{key}` must be a string")),
        };
        let missing = |key: &str| format!("`{key}` is missing");
        let path = text("path")?.filter(|path| !path.is_empty()).ok_or_else(|| missing("path"))?;
        if let Some(problem) = names::problem_of_path(&path).filter(|_| cfg!(windows)) {
            return Err(format!("`path` cannot be used: {problem}"));
        }
        let description = text("description")?.unwrap_or_default();
        let mut content = text("content")?.ok_or_else(|| missing("content"))?;
        if content.bytes().any(|byte| byte.is_ascii_whitespace()) {
            content.retain(|character| !character.is_ascii_whitespace());
        }
        match text("encoding")?.as_deref() {
            Some("base64") => {}
            Some(_) => return Err("`encoding` must be `base64`".into()),
            None => return Err(missing("encoding")),
        }
        let format = match text("format")?.as_deref() {
            Some("file") => Format::File,
            Some("zip") => Format::Zip,
            Some(_) => return Err("`format` must be `file` or `zip`".into()),
            None => return Err(missing("format")),
        };
        let mode = text("mode")?.map(|mode| parse_mode(&mode)).transpose()?;
        let (owner, group) = (text("owner")?, text("group")?);
        if cfg!(windows) && mode.is_some() {
            tracing::debug!("the mode of {path} means nothing on Windows");
        }
        let sha256 = text("sha256")?.map(|hash| hash.to_ascii_lowercase());
        if sha256.as_ref().is_some_and(|hash| hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return Err("`sha256` must be 64 hexadecimal digits".into());
        }
        Ok(Self { description, path: path.into(), content, format, mode, owner, group, sha256, secret, written: false })
    }

    /// Whether it is still to be written.
    pub const fn is_waiting(&self) -> bool {
        !self.written
    }

    /// What is kept of files that have been written: those whose lines must not become public. An archive has none.
    pub fn written(files: Vec<Self>) -> Vec<Self> {
        let kept = files.into_iter().filter(|file| file.secret && file.format == Format::File);
        kept.map(|file| Self { written: true, ..file }).collect()
    }

    /// The permission bits that a plain file gets, and an archive's entry that names none.
    fn mode(&self) -> u32 {
        self.mode.unwrap_or(if self.secret { SECRET_MODE } else { MODE })
    }

    /// Who may read it on a system where modes mean nothing.
    const fn privacy(&self) -> Privacy {
        if self.secret { Privacy::Private } else { Privacy::AsItsFolder }
    }

    /// What of it is secret, as texts: nothing where the whole file isn't. What is no text can't be told anyhow.
    pub fn secret_texts(&self) -> Vec<Cow<'_, str>> {
        if !self.secret {
            return Vec::new();
        }
        let (mut content, mut text, mut piece) = (self.content(), Vec::new(), vec![0; 64 * 1024]);
        while let Ok(read @ 1..) = content.read(&mut piece) {
            text.extend_from_slice(&piece[..read]);
            if piece[..read].contains(&0) {
                text = Vec::new();
                break;
            }
        }
        [Cow::Borrowed(self.content.as_str())].into_iter().chain(String::from_utf8(text).map(Cow::Owned)).collect()
    }

    /// The decoded content.
    fn content(&self) -> Content<'_> {
        Content::of(&self.content)
    }

    /// Writes the decoded content, verified: what is written before a mistake is found is of no use.
    fn write_content(&self, out: &mut impl Write) -> Result<(), ContentError> {
        let (mut content, mut hash) =
            (self.content(), self.sha256.as_ref().map(|_| digest::Context::new(&digest::SHA256)));
        let mut piece = vec![0; 64 * 1024];
        loop {
            let read =
                content.read(&mut piece).map_err(|_| ContentError::Wrong("its content is no base64".to_owned()))?;
            let Some(piece) = piece.get(..read).filter(|piece| !piece.is_empty()) else { break };
            if let Some(hash) = &mut hash {
                hash.update(piece);
            }
            out.write_all(piece).map_err(ContentError::Write)?;
        }
        let (Some(expected), Some(hash)) = (&self.sha256, hash) else { return Ok(()) };
        let actual = hex(&hash.finish());
        if actual != *expected {
            // The hash of a short secret is as good as the secret.
            let actual = if self.secret { "another one" } else { actual.as_str() };
            return Err(ContentError::Wrong(format!("its SHA-256 is {actual}, not {expected}")));
        }
        Ok(())
    }

    /// That the content can't be used, and why.
    fn wrong(&self, problem: String) -> FilesError {
        FilesError::Content { file: self.to_string(), problem }
    }
}

/// Why a content can't be written.
#[derive(Debug)]
enum ContentError {
    /// It is not as it should be.
    Wrong(String),
    /// Something else took it badly.
    Write(io::Error),
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o7777 && !digits.starts_with('+') => Ok(mode),
        Ok(_) | Err(_) => Err("`mode` must be octal permission bits such as \"0644\"".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(change: &Value) -> Result<Vec<FileSpec>, FilesError> {
        let mut file =
            json!({"description": "d", "path": "/p", "content": "aGk=", "encoding": "base64", "format": "file"});
        file.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        FileSpec::read_list(json!([file]), false)
    }

    #[test]
    fn mistakes_name_the_key_and_never_the_value() {
        let table = [
            (json!({"path": ""}), "files[0] \"d\" (): `path` is missing"),
            (json!({"content": ["canary"]}), "files[0] \"d\" (/p): `content` must be a string"),
            (json!({"encoding": "canary"}), "files[0] \"d\" (/p): `encoding` must be `base64`"),
            (json!({"format": "canary"}), "files[0] \"d\" (/p): `format` must be `file` or `zip`"),
            (json!({"mode": "rwx"}), "files[0] \"d\" (/p): `mode` must be octal permission bits such as \"0644\""),
            (json!({"mode": "17777"}), "files[0] \"d\" (/p): `mode` must be octal permission bits such as \"0644\""),
            (json!({"sha256": "canary"}), "files[0] \"d\" (/p): `sha256` must be 64 hexadecimal digits"),
        ];
        for (change, expected) in table {
            assert_eq!(spec(&change).unwrap_err().to_string(), expected);
        }
        assert_eq!(FileSpec::read_list(json!({}), false).unwrap_err().to_string(), "it must be a list");
    }

    fn decode(change: &Value) -> Result<Vec<u8>, String> {
        let mut content = Vec::new();
        match spec(change).unwrap()[0].write_content(&mut content) {
            Ok(()) => Ok(content),
            Err(ContentError::Wrong(problem)) => Err(problem),
            Err(ContentError::Write(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn base64_may_have_line_breaks_and_lack_padding() {
        for content in ["aGk=", "aG\nk=", "aG\r\nk", " aGk "] {
            assert_eq!(decode(&json!({"content": content})), Ok(b"hi".to_vec()));
        }
        assert_eq!(decode(&json!({"content": "canary!"})), Err("its content is no base64".to_owned()));
        assert_eq!(decode(&json!({"content": ""})), Ok(Vec::new()));
    }

    #[test]
    fn a_wrong_hash_is_refused() {
        let hash = "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4";
        assert!(decode(&json!({"sha256": hash.to_uppercase()})).is_ok());
        assert!(decode(&json!({"sha256": "0".repeat(64)})).is_err());
    }
}
