//! Reasons not to do something: each has a name, for metrics, scripts and tests, and one sentence for people, the same
//! wherever it is shown.

/// Makes an enum of `NAME: "sentence";` lines, in the order in which they are looked for.
macro_rules! reasons {
    ($(#[$doc:meta])* $reasons:ident { $($reason:ident: $sentence:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $reasons { $(#[doc = $sentence] $reason,)* }

        impl $reasons {
            /// All of them, in the order in which they are looked for.
            pub const ALL: &[Self] = &[$(Self::$reason,)*];

            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$reason => stringify!($reason),)* }
            }

            /// The reason in plain words.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$reason => $sentence,)* }
            }
        }

        impl std::fmt::Display for $reasons {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

pub(crate) use reasons;
