//! Any bytes are a valid line of the protocol, what is read as a message is written and read again, and a record that is read
//! the short way reads as it does the long way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use worker_protocol::record::{LogRecord, render};
use worker_protocol::{Message, Parsed};

fuzz_target!(|line: &[u8]| {
    if let Some(record) = LogRecord::parse(line) {
        let Parsed::Message(Message::Log { body }) = Message::parse(line) else { panic!("no log message") };
        let (mut short, mut long) = (Vec::new(), Vec::new());
        record.render(&mut short);
        render(&body, &mut long).unwrap();
        assert_eq!(short, long);
    }
    if let Parsed::Message(message) = Message::parse(line) {
        let again = message.to_line();
        assert!(matches!(Message::parse(again.trim_ascii_end()), Parsed::Message(_)));
    }
});
