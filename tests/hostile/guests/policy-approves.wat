;; world: approval
;; Approves whatever it is.
