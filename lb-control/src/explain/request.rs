//! What becomes of a request.

use std::{net::IpAddr, sync::Arc};

use lb_common::spec::{self, Action, Answer, Redirect, Scheme};
use lb_http::{
    h1::{HeadParser, Limits, RequestError},
    message::Request,
};
use lb_proto::v1::{self, explain_response::Outcome};
use lb_routing::{
    admit::admit,
    origin::Origin,
    redirect::{self, TO_HTTPS},
    refusal::Refusal,
    route::Subject,
};

use super::{
    compiled::Compiled,
    outcome::{self, Asker, Statuses},
    verdict::{self, Taken},
};

/// A request on the listener that takes it.
pub struct Question {
    pub taken: Taken,
    request: Request,
    /// Whether it is a request that is forwarded.
    admitted: Result<(), Refusal>,
}

impl Question {
    pub fn new(head: &[u8], taken: Taken) -> Self {
        let (request, read) = read(head, &taken.listener);
        let admitted = read.map_err(Refusal::Request).and_then(|()| admit(&request));
        Self { taken, request, admitted }
    }

    /// Who the client is.
    pub fn client(&self) -> IpAddr {
        self.origin().address
    }

    /// Who the request is from.
    fn origin(&self) -> Origin<'_> {
        let Taken { listener, from, .. } = &self.taken;
        let (trusted, header) = (&listener.trusted_proxies, listener.forwarded_header);
        Origin::of(&self.request, from.to_canonical(), listener.scheme(), trusted, header)
    }

    /// What is matched of the request.
    fn subject<'a>(&'a self, scratch: &'a mut Vec<u8>) -> Subject<'a> {
        let normalization = self.taken.listener.path_normalization;
        Subject::of(&self.request, self.origin().address, normalization, scratch)
    }

    /// Whether it is to come with TLS first.
    fn goes_to_https(&self) -> bool {
        self.taken.listener.redirect_to_https && self.origin().scheme == Scheme::Http
    }

    /// The route that takes it, if one does.
    pub fn route<'a>(&self, compiled: &'a Compiled) -> Option<&'a Arc<spec::Route>> {
        self.admitted.as_ref().ok().filter(|()| !self.goes_to_https())?;
        compiled.routes(&self.taken.listener.name).find(&self.subject(&mut Vec::new()))
    }

    pub fn verdicts(&self, compiled: &Compiled) -> Vec<v1::RouteVerdict> {
        let mut scratch = Vec::new();
        let subject = self.subject(&mut scratch);
        let verdicts = compiled.routes(&self.taken.listener.name).explain(&subject);
        match &self.admitted {
            Ok(()) if self.goes_to_https() => {
                verdict::not_asked(&verdicts, "the listener redirects to https")
            }
            Ok(()) => verdict::verdicts(&verdicts),
            Err(refusal) => {
                verdict::not_asked(&verdicts, &format!("the request is refused: {refusal}"))
            }
        }
    }

    pub fn outcome(&self, compiled: &Compiled, statuses: &Statuses) -> Outcome {
        let route = match (&self.admitted, self.route(compiled)) {
            (Err(refusal), _) => return outcome::refusal(refusal),
            (Ok(()), _) if self.goes_to_https() => return self.redirect(&TO_HTTPS),
            (Ok(()), None) => return outcome::refusal(&Refusal::NoRoute),
            (Ok(()), Some(route)) => route,
        };
        match &route.action {
            Action::Forward(sets) => {
                let asker = Asker { address: self.origin().address, request: &self.request };
                outcome::forward(sets, &asker, compiled, statuses)
            }
            Action::Redirect(to) => self.redirect(to),
            Action::Answer(Answer { status, body, .. }) => Outcome::Answer(v1::AnswerOutcome {
                status: status.as_u16().into(),
                body: body.clone(),
            }),
        }
    }

    fn redirect(&self, to: &Redirect) -> Outcome {
        match redirect::location(to, &self.request, &self.origin()) {
            Ok(location) => Outcome::Redirect(v1::RedirectOutcome {
                status: to.status.as_u16().into(),
                location: String::from_utf8_lossy(&location).into(),
            }),
            Err(why) => outcome::refusal(&why),
        }
    }
}

/// The request as this listener's proxies read it, and whether they do. Of one that they refuse, what was
/// understood until then.
fn read(head: &[u8], listener: &spec::Listener) -> (Request, Result<(), RequestError>) {
    let size = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
    let limits = Limits {
        head: size(listener.max_header_bytes),
        fields: size(listener.max_header_fields),
        target: size(listener.max_target_bytes),
    };
    let mut request = Request::default();
    let read = match request.read(&mut HeadParser::default(), head, &limits) {
        Ok(Some(_)) => Ok(()),
        // It ends with its empty line.
        Ok(None) => Err(RequestError::Malformed("the head has no end")),
        Err(error) => Err(error),
    };
    (request, read)
}
