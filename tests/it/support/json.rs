//! A strict reader of one line of JSON (RFC 8259).

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    String(String),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    /// Fails where the text is anything but one value, or names a key twice.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value().filter(|_| reader.at == text.len());
        value.unwrap_or_else(|| panic!("no JSON from byte {} on: {text}", reader.at))
    }

    #[track_caller]
    pub fn parse_lines(text: &str) -> Vec<Self> {
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole: {text}");
        text.lines().map(Self::parse).collect()
    }

    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.get(key),
            _ => None,
        }
    }

    /// The text under this key; empty where there is none.
    pub fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Some(Json::String(text)) => text,
            _ => "",
        }
    }

    pub fn number(&self, key: &str) -> Option<f64> {
        match self.get(key) {
            Some(Json::Number(number)) => Some(*number),
            _ => None,
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn take(&mut self, token: &str) -> Option<()> {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found.then_some(())
    }

    fn space(&mut self) {
        self.at +=
            self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn value(&mut self) -> Option<Json> {
        self.space();
        let value = match self.rest().chars().next()? {
            '{' => self.object()?,
            '[' => self.array()?,
            '"' => Json::String(self.string()?),
            't' => self.take("true").map(|()| Json::Bool(true))?,
            'f' => self.take("false").map(|()| Json::Bool(false))?,
            'n' => self.take("null").map(|()| Json::Null)?,
            _ => self.number()?,
        };
        self.space();
        Some(value)
    }

    fn object(&mut self) -> Option<Json> {
        let mut members = BTreeMap::new();
        self.take("{")?;
        self.space();
        if self.take("}").is_some() {
            return Some(Json::Object(members));
        }
        loop {
            self.space();
            let key = self.string()?;
            self.space();
            self.take(":")?;
            let value = self.value()?;
            if members.insert(key, value).is_some() {
                return None;
            }
            if self.take(",").is_none() {
                return self.take("}").map(|()| Json::Object(members));
            }
        }
    }

    fn array(&mut self) -> Option<Json> {
        let mut items = Vec::new();
        self.take("[")?;
        self.space();
        if self.take("]").is_some() {
            return Some(Json::Array(items));
        }
        loop {
            items.push(self.value()?);
            if self.take(",").is_none() {
                return self.take("]").map(|()| Json::Array(items));
            }
        }
    }

    fn number(&mut self) -> Option<Json> {
        let length = self.rest().find([',', '}', ']', ' ']).unwrap_or(self.rest().len());
        let word = &self.rest()[..length];
        let digits = word.strip_prefix('-').unwrap_or(word);
        // Rust reads more than JSON allows: `inf`, `+1`, `.5`, `01`.
        let whole = digits.split(['.', 'e', 'E']).next()?;
        let strict = whole.bytes().all(|byte| byte.is_ascii_digit())
            && (whole == "0" || (!whole.is_empty() && !whole.starts_with('0')));
        let number = word.parse().ok().filter(|_| strict)?;
        self.at += length;
        Some(Json::Number(number))
    }

    fn string(&mut self) -> Option<String> {
        self.take("\"")?;
        let mut units: Vec<u16> = Vec::new();
        loop {
            let c = self.rest().chars().next()?;
            self.at += c.len_utf8();
            let plain = match c {
                '"' => return String::from_utf16(&units).ok(),
                '\\' => self.escape()?,
                c if c < ' ' => return None,
                c => {
                    units.extend_from_slice(c.encode_utf16(&mut [0; 2]));
                    continue;
                }
            };
            units.push(plain);
        }
    }

    /// What stands behind a backslash, as a unit of UTF-16.
    fn escape(&mut self) -> Option<u16> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(match c {
            '"' | '\\' | '/' => c as u16,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'u' => {
                let unit = u16::from_str_radix(self.rest().get(..4)?, 16).ok()?;
                self.at += 4;
                unit
            }
            _ => return None,
        })
    }
}
