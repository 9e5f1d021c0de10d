//! Any bytes are a valid line of the protocol, and what is read as a message is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use worker_protocol::{Message, Parsed};

fuzz_target!(|line: &[u8]| {
    if let Parsed::Message(message) = Message::parse(line) {
        let again = message.to_line();
        assert!(matches!(Message::parse(again.trim_ascii_end()), Parsed::Message(_)));
    }
});
