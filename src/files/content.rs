//! A file's content, decoded piece by piece from the text that it came as: whoever reads it needs memory for one piece.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::io::{self, Read, Seek, SeekFrom};

/// Padding may be there or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A piece, in bytes of content and of text.
const PIECE: usize = 48 * 1024;
const PIECE_OF_TEXT: usize = PIECE / 3 * 4;

/// A content that can be read from any place. An error names nothing of it.
pub struct Content<'a> {
    /// Base64, without white space.
    text: &'a [u8],
    length: u64,
    /// It can't be read to its end, so none of it is.
    is_wrong: bool,
    position: u64,
    /// The piece that was decoded last, and where it begins.
    piece: Vec<u8>,
    piece_at: Option<u64>,
}

impl<'a> Content<'a> {
    /// The content of this text, which holds no white space.
    pub fn of(text: &'a str) -> Self {
        let text = text.as_bytes();
        let digits = text.len() - text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
        // What stands for no whole byte is no content: reading on finds that out.
        let length = (digits / 4 * 3 + [0, 1, 1, 2][digits % 4]).max(usize::from(!text.is_empty())) as u64;
        // Padding fills the last four; where those are full, it stands for nothing.
        let is_wrong = digits < text.len() && digits.is_multiple_of(4);
        Self { text, length, is_wrong, position: 0, piece: Vec::new(), piece_at: None }
    }

    /// Decodes the piece that holds the position.
    fn turn_to_piece(&mut self) -> io::Result<()> {
        let number = usize::try_from(self.position).unwrap_or(usize::MAX) / PIECE;
        let begins = (number * PIECE) as u64;
        if self.piece_at == Some(begins) {
            return Ok(());
        }
        let rest = self.text.get(number * PIECE_OF_TEXT..).unwrap_or_default();
        let text = &rest[..rest.len().min(PIECE_OF_TEXT)];
        self.piece_at = None;
        self.piece.clear();
        // base64's own errors name the offending byte, which is part of the content.
        let decoded = BASE64.decode_vec(text, &mut self.piece);
        // Padding before the end makes a piece short.
        let is_whole = rest.len() <= PIECE_OF_TEXT || self.piece.len() == PIECE;
        if decoded.is_err() || !is_whole || self.is_wrong {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no base64"));
        }
        self.piece_at = Some(begins);
        Ok(())
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.length {
            return Ok(0);
        }
        self.turn_to_piece()?;
        let begins = self.piece_at.unwrap_or_default();
        let from = usize::try_from(self.position - begins).unwrap_or(usize::MAX);
        let rest = self.piece.get(from..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Content<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before its beginning"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Content::of(text).read_to_end(&mut content).map(|_| content)
    }

    #[test]
    fn a_content_is_read_whole_however_it_is_padded() {
        for length in [0, 1, 2, 3, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 2] {
            let content: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let text = BASE64.encode(&content);
            assert_eq!(read(&text).unwrap(), content, "{length}");
            assert_eq!(read(text.trim_end_matches('=')).unwrap(), content, "{length}");
        }
    }

    #[test]
    fn what_is_no_base64_is_refused_wherever_it_is() {
        let good = "QUJD".repeat(PIECE_OF_TEXT / 4);
        for bad in [
            "canary!".to_owned(),
            "a".to_owned(),
            format!("{good}a"),
            format!("{good}QQ==QQ=="),
            format!("QQ=={good}"),
            format!("{}QUI={good}", &good[4..]),
            format!("{}QQ==", &good[4..]) + &good,
            format!("{good}=="),
            "=".to_owned(),
            "====".to_owned(),
        ] {
            let Err(error) = read(&bad) else { panic!("{:?} were taken", &bad[bad.len().saturating_sub(9)..]) };
            assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::InvalidData, "it is no base64"));
        }
    }

    proptest! {
        #[test]
        fn any_place_can_be_read_from(
            content in proptest::collection::vec(any::<u8>(), 1..3000),
            places in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..5000), 1..8),
        ) {
            // Over the end of a piece.
            let content: Vec<u8> = content.iter().copied().cycle().take(PIECE + content.len()).collect();
            let text = BASE64.encode(&content);
            let mut reader = Content::of(&text);
            for (place, length) in places {
                let place = place.index(content.len());
                reader.seek(SeekFrom::Start(place as u64)).unwrap();
                let mut found = vec![0; length.min(content.len() - place)];
                reader.read_exact(&mut found).unwrap();
                prop_assert_eq!(&found, &content[place..place + found.len()]);
            }
        }
    }
}
